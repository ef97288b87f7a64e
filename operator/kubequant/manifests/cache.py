"""The cache volume: one claim for a namespace, a repository and a commit, and the Job that fills it.

The claim is named by what it holds, so that two models that want the same share it. Models that read with a Secret share with
those alone that name the same one: what a token opened is not for a model that has none. It has no controller: every
QuantizedModel that needs it is an owner, and Kubernetes collects it with the last of them.

The Job runs download.py as an init container would, without a GPU, on a node where the engine can run: a class that binds
with its first consumer then binds there. Engines mount the claim read-only, and only once it is full.
"""

from __future__ import annotations

import re
from typing import Any

from kubequant.api.spec import Pod
from kubequant.manifests.jobs import Manifest, build_job, job_pod_labels
from kubequant.manifests.names import (
    COMPONENT_LABEL,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    Owner,
    digest,
    owner_reference,
    selector_of,
)
from kubequant.manifests.pod import (
    DOWNLOAD_CONTAINER,
    READ_WRITE_ONCE,
    download_container,
    download_volumes,
    model_volume_bytes,
    node_affinity,
    tolerations,
)
from kubequant.manifests.recipe import CacheVolume, Recipe
from kubequant.manifests.security import pod_security

COMPONENT = "model-cache"
FILLED_ANNOTATION = "kubequant.dev/filled"
REPOSITORY_ANNOTATION = "kubequant.dev/repository"
COMMIT_ANNOTATION = "kubequant.dev/commit"

NAME_CHARS = 40  # of the repository's name; the claim's names the Job too, which must fit a label
PERMANENT_EXIT_CODE = 3  # of download.py: another run would end the same way
RETRIES = 4  # while the Hub does not answer, beside the download's own; the Job's back-off stands between them
TTL_SECONDS = 600  # then a Job that failed is made anew, and goes on where it was

# Files are written and hashed block by block; what the kernel caches of them is no demand.
RESOURCES = {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}}


def cache_of(recipe: Recipe) -> CacheVolume | None:
    """The volume that the configuration asks for; None where each pod downloads, or the user's own volume is served."""
    settings = recipe.engine.cache
    if settings is None or recipe.claim is not None:
        return None
    content = [recipe.repository, recipe.commit, recipe.checksums, recipe.token_secret]
    slug = re.sub(r"[^a-z0-9]+", "-", recipe.repository.rpartition("/")[2].lower())[:NAME_CHARS].strip("-") or "model"
    return CacheVolume(
        claim=f"{slug}-{digest([*content, settings.storage_class, settings.access_mode], 12)}",
        size_bytes=model_volume_bytes(recipe),
        storage_class=settings.storage_class,
        access_mode=settings.access_mode,
    )


def build_claim(owner: Owner, recipe: Recipe, cache: CacheVolume) -> Manifest:
    """The claim with its first owner. Its spec is written once; a class and a mode of its own have another name."""
    spec: dict[str, Any] = {
        "accessModes": [cache.access_mode],
        "resources": {"requests": {"storage": str(cache.size_bytes)}},
        "volumeMode": "Filesystem",
    }
    if cache.storage_class is not None:
        spec["storageClassName"] = cache.storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": cache.claim,
            "namespace": owner.namespace,
            "labels": {
                "app.kubernetes.io/name": MANAGED_BY,
                MANAGED_BY_LABEL: MANAGED_BY,
                COMPONENT_LABEL: COMPONENT,
            },
            "annotations": {REPOSITORY_ANNOTATION: recipe.repository, COMMIT_ANNOTATION: recipe.commit},
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": spec,
    }


def build_fill(owner: Owner, recipe: Recipe, cache: CacheVolume, pod: Pod, files_name: str) -> Manifest:
    """The Job, named as the claim: there is one at a time, whichever of the models made it."""
    spec: Manifest = {
        "restartPolicy": "Never",  # a pod that failed stays, and with it what it said
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "affinity": {**node_affinity(recipe), **_near_the_engine(owner, cache)},
        "tolerations": tolerations(recipe.tolerations, pod),
        "containers": [download_container(recipe, RESOURCES)],
        "volumes": [
            {"name": "model", "persistentVolumeClaim": {"claimName": cache.claim}},
            *download_volumes(files_name),
        ],
    }
    if pod.node_selector:
        spec["nodeSelector"] = dict(pod.node_selector)
    if pod.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret.name} for secret in pod.image_pull_secrets]
    job = {
        "backoffLimit": RETRIES,
        "ttlSecondsAfterFinished": TTL_SECONDS,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": DOWNLOAD_CONTAINER,
                        "operator": "In",
                        "values": [PERMANENT_EXIT_CODE],
                    },
                },
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": {
            "metadata": {
                "labels": job_pod_labels(owner, COMPONENT),
                "annotations": dict(pod.annotations or {}),
            },
            "spec": spec,
        },
    }
    return build_job(owner, cache.claim, COMPONENT, job)


def _near_the_engine(owner: Owner, cache: CacheVolume) -> Manifest:
    """A volume of one node is best on the node that the model has GPUs on already, which an update in place frees."""
    if cache.access_mode != READ_WRITE_ONCE:
        return {}
    near = {"labelSelector": {"matchLabels": selector_of(owner)}, "topologyKey": "kubernetes.io/hostname"}
    preferred = [{"weight": 100, "podAffinityTerm": near}]
    return {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
