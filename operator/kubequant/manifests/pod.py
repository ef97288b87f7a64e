"""The pod template: one init container that downloads the pinned commit (none where a volume of the user's holds the model,
or a cache volume, which a Job fills), one container that runs the engine.

Both are of the engine's own image, under Pod Security `restricted`. The launcher is process 1 of the engine's container
(manifests/files/launcher.py says why); nothing of a user's reaches a shell: commands are lists.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from kubequant.api.spec import Pod
from kubequant.manifests.names import REVISION_LABEL, Owner, labels_of
from kubequant.manifests.recipe import Recipe
from kubequant.manifests.security import container_security, pod_security
from kubequant.planning.cloud_labels import FRACTION_LABELS
from kubequant.planning.engines.vllm import HEALTH_PATH
from kubequant.planning.taints import STANDARD_TOLERATION
from kubequant.planning.values import Toleration

ENGINE_CONTAINER = "engine"
DOWNLOAD_CONTAINER = "download"
HTTP_PORT = 8000
STATUS_PORT = 8001
MODEL_FOLDER = "/models/model"
FILES_FOLDER = "/kubequant"
HOME_FOLDER = "/home/engine"

PRE_STOP_SECONDS = 5  # endpoints forget the pod before it stops taking requests
DRAIN_SECONDS = 40  # requests under way may finish
TERMINATION_GRACE_SECONDS = PRE_STOP_SECONDS + DRAIN_SECONDS + 15

MIB = 2**20
GIB = 2**30
# vLLM's own shared memory at N workers (160 MiB and 240 MiB a worker, vllm 0.33 shm_broadcast.py), and as much for NCCL.
SHM_BASE_BYTES = 160 * MIB
SHM_WORKER_BYTES = 480 * MIB

CACHE_LABEL = "kubequant.dev/cache"
READ_WRITE_ONCE = "ReadWriteOnce"

DEFAULT_CPU = "1"
DEFAULT_MEMORY = "4Gi"

Manifest = dict[str, Any]


def build_pod_template(owner: Owner, recipe: Recipe, pod: Pod, files_name: str) -> Manifest:
    """The template without the revision label, which `stamp_revision` adds once the revision has its name."""
    return {
        "metadata": {
            "labels": {**(pod.labels or {}), **_volume_label(recipe), **labels_of(owner)},
            "annotations": {**(pod.annotations or {}), "kubectl.kubernetes.io/default-container": ENGINE_CONTAINER},
        },
        "spec": _without_none(
            {
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "terminationGracePeriodSeconds": TERMINATION_GRACE_SECONDS,
                "securityContext": pod_security(),
                "nodeSelector": pod.node_selector or None,
                "affinity": {**node_affinity(recipe), **_beside_its_likes(recipe)},
                "tolerations": tolerations(recipe.tolerations, pod),
                "runtimeClassName": pod.runtime_class_name,
                "priorityClassName": pod.priority_class_name,
                "imagePullSecrets": [{"name": secret.name} for secret in pod.image_pull_secrets or []] or None,
                "initContainers": None
                if recipe.claim or recipe.cache
                else [download_container(recipe, _resources(pod, {}))],
                "containers": [_engine_container(recipe, pod)],
                "volumes": _volumes(recipe, files_name),
            }
        ),
    }


def stamp_revision(template: Manifest, revision: str) -> Manifest:
    """A copy of the template whose pods carry the name of their revision."""
    metadata = template["metadata"]
    return {**template, "metadata": {**metadata, "labels": {**metadata["labels"], REVISION_LABEL: revision}}}


def _engine_container(recipe: Recipe, pod: Pod) -> Manifest:
    engine = recipe.engine
    serve = ["vllm", "serve", _model_folder(recipe), "--host", "0.0.0.0", "--port", str(HTTP_PORT)]  # noqa: S104 - the pod's own
    health = {"path": HEALTH_PATH, "port": "http"}
    return {
        "name": ENGINE_CONTAINER,
        "image": engine.image,
        "imagePullPolicy": engine.image_pull_policy,
        "command": [
            "python3",
            f"{FILES_FOLDER}/launcher.py",
            "--port",
            str(STATUS_PORT),
            *(["--model", MODEL_FOLDER] if recipe.cache else []),
            "--",
        ],
        "args": [
            *serve,
            *recipe.arguments,
            "--shutdown-timeout",
            str(DRAIN_SECONDS),
            *engine.extra_arguments,
        ],
        "env": _environment(
            {
                "HF_HUB_OFFLINE": "1",
                "VLLM_NO_USAGE_STATS": "1",
                # Above the startup probe: the probe decides, with a cause that the status can show.
                "VLLM_ENGINE_READY_TIMEOUT_S": str(recipe.start_budget_seconds + 60),
                **dict(engine.environment),
            }
        ),
        "ports": [
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": "status", "containerPort": STATUS_PORT, "protocol": "TCP"},
        ],
        "startupProbe": {
            "httpGet": health,
            "periodSeconds": 5,
            "timeoutSeconds": 5,
            "failureThreshold": -(-recipe.start_budget_seconds // 5),
        },
        "readinessProbe": {"httpGet": health, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {"httpGet": health, "periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 6},
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        "resources": _resources(pod, {recipe.gpu_resource: str(recipe.gpus)}),
        "securityContext": container_security(),
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            {"name": "model", "mountPath": MODEL_FOLDER if recipe.claim else "/models", "readOnly": True},
            *_common_mounts(),
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
        ],
    }


def download_container(recipe: Recipe, resources: Manifest) -> Manifest:
    """Fills the volume `model`; it mounts those of `download_volumes` too."""
    environment = _environment(
        {
            "HF_ENDPOINT": recipe.engine.hub_endpoint,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **dict(recipe.engine.hub_environment),
        }
    )
    if recipe.token_secret:
        name, key = recipe.token_secret
        environment.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": name, "key": key}}})
    return {
        "name": DOWNLOAD_CONTAINER,
        "image": recipe.engine.image,
        "imagePullPolicy": recipe.engine.image_pull_policy,
        "command": ["python3", f"{FILES_FOLDER}/download.py"],
        "args": [
            "--repository",
            recipe.repository,
            "--revision",
            recipe.commit,
            "--to",
            MODEL_FOLDER,
            "--expected-bytes",
            str(recipe.download_bytes),
            "--port",
            str(STATUS_PORT),
            *(["--checksums", recipe.checksums] if recipe.checksums else []),
        ],
        "env": environment,
        "resources": resources,
        "securityContext": container_security(),
        "terminationMessagePolicy": "File",
        "volumeMounts": [{"name": "model", "mountPath": "/models"}, *_common_mounts()],
    }


def _model_folder(recipe: Recipe) -> str:
    """A user's volume is mounted as a whole: links from the model's folder may lead elsewhere in it."""
    return f"{MODEL_FOLDER}/{recipe.claim[1]}" if recipe.claim and recipe.claim[1] else MODEL_FOLDER


def _environment(values: dict[str, str]) -> list[Manifest]:
    """HOME and USER must be set: a user id without a passwd entry has neither, and libraries of the engine ask for both."""
    common = {"HOME": HOME_FOLDER, "USER": "engine", "TMPDIR": "/tmp", "HF_HOME": "/tmp/huggingface"}  # noqa: S108
    return [{"name": name, "value": value} for name, value in {**common, **values}.items()]


def _common_mounts() -> list[Manifest]:
    return [
        {"name": "files", "mountPath": FILES_FOLDER, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        {"name": "home", "mountPath": HOME_FOLDER},
    ]


def _volumes(recipe: Recipe, files_name: str) -> list[Manifest]:
    # Also for one GPU: executors other than the in-process one take it there too, and the default 64 MiB fail them all.
    shm_mib = (SHM_BASE_BYTES + recipe.gpus * SHM_WORKER_BYTES) // MIB
    return [
        {"name": "model", **_model_volume(recipe)},
        *download_volumes(files_name),
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{shm_mib}Mi"}},
    ]


def download_volumes(files_name: str) -> list[Manifest]:
    """What the download needs beside the volume that it fills; the engine needs the same."""
    return [
        {"name": "files", "configMap": {"name": files_name, "defaultMode": 0o444}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "home", "emptyDir": {}},
    ]


def _model_volume(recipe: Recipe) -> Manifest:
    if recipe.claim:
        # Read-only as a volume, not as a mount alone: the kubelet must not give the user's files to our group.
        return {"persistentVolumeClaim": {"claimName": recipe.claim[0], "readOnly": True}}
    if recipe.cache:
        return {"persistentVolumeClaim": {"claimName": recipe.cache.claim, "readOnly": True}}
    return {"emptyDir": {"sizeLimit": f"{model_volume_bytes(recipe) // MIB}Mi"}}


def model_volume_bytes(recipe: Recipe) -> int:
    """A tenth and 1 GiB above what the Hub says, for the filesystem's own and files of unknown size; in whole MiB."""
    return -(-(recipe.download_bytes + recipe.download_bytes // 10 + GIB) // MIB) * MIB


def _resources(pod: Pod, gpus: dict[str, str]) -> Manifest:
    asked = pod.resources
    requests = {
        "cpu": str((asked and asked.cpu) or DEFAULT_CPU),
        "memory": str((asked and asked.memory) or DEFAULT_MEMORY),
        **gpus,
    }
    limits = {**({"memory": str(asked.memory)} if asked and asked.memory else {}), **gpus}
    return {"requests": requests, "limits": limits} if limits else {"requests": requests}


def node_affinity(recipe: Recipe) -> Manifest:
    """Exactly the product that the plan rests on, with at least the memory that it rests on. Either term will do.

    Nodes selected by labels of a cloud or a pool may have no label of GPU Feature Discovery. Where they have one, now or after it
    is installed, it must agree; where they have none, the cloud must not say that their GPUs are cut or shared.
    """
    product, memory = f"{recipe.gpu_resource}.product", f"{recipe.gpu_resource}.memory"
    chosen = [_one_of(key, value) for key, value in recipe.gpu_selector]
    labelled = [*chosen, _one_of(product, recipe.gpu_product)]
    enough = [*labelled, {"key": memory, "operator": "Gt", "values": [str(recipe.gpu_memory_mib - 1)]}]
    terms = [enough if recipe.gpu_memory_mib else labelled]
    if chosen:
        fractions = [_absent(label) for label in FRACTION_LABELS if label not in dict(recipe.gpu_selector)]
        terms.insert(0, [*chosen, _absent(product), *fractions])
    elif recipe.gpu_memory_mib and not recipe.gpu_memory_labelled:
        terms.append([*labelled, _absent(memory)])
    required = {"nodeSelectorTerms": [{"matchExpressions": expressions} for expressions in terms]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def _volume_label(recipe: Recipe) -> dict[str, str]:
    return {CACHE_LABEL: recipe.cache.claim} if recipe.cache else {}


def _beside_its_likes(recipe: Recipe) -> Manifest:
    """A volume that one node mounts at a time: the scheduler alone would spread its pods, and they would wait for it for ever."""
    if recipe.cache is None or recipe.cache.access_mode != READ_WRITE_ONCE:
        return {}
    term = {"labelSelector": {"matchLabels": _volume_label(recipe)}, "topologyKey": "kubernetes.io/hostname"}
    return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def _one_of(label: str, value: str) -> Manifest:
    return {"key": label, "operator": "In", "values": [value]}


def _absent(label: str) -> Manifest:
    return {"key": label, "operator": "DoesNotExist"}


def tolerations(of_class: tuple[Toleration, ...], pod: Pod) -> list[Manifest]:
    """For the taint that GPU nodes commonly carry, for those of the GPU class, and the user's.

    Pods of Jobs ask for no GPU and have the first too: a cluster may have no other nodes.
    """
    ours = [
        {name: value for name, value in asdict(toleration).items() if value}
        for toleration in dict.fromkeys((STANDARD_TOLERATION, *of_class))
    ]
    asked = [
        toleration.model_dump(by_alias=True, exclude_none=True, mode="json") for toleration in pod.tolerations or []
    ]
    return [*ours, *asked]


def _without_none(mapping: Manifest) -> Manifest:
    return {key: value for key, value in mapping.items() if value is not None}
