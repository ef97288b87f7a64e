"""The inspector: a short Job that describes what the operator itself may not read, with `kubequant inspect` of its image.

It runs in the model's namespace, under Pod Security `restricted`, with the user's own Secret or claim and no identity in
the cluster. Its answer is its termination message (reconcile.inspection_answer); a Job that has ended is kept
for TTL_SECONDS, and while it is there its answer counts: gone, it is asked anew.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from kubequant.api.spec import Pod
from kubequant.manifests.children import AUTHORITIES_FILE, build_files
from kubequant.manifests.jobs import (
    Manifest,
    build_job,
    job_name,
    job_pod_labels,
)
from kubequant.manifests.names import Owner, files_name
from kubequant.manifests.pod import FILES_FOLDER, tolerations
from kubequant.manifests.security import container_security, pod_security

COMPONENT = "inspector"
CONTAINER = "inspect"
VOLUME_FOLDER = "/volume"

REFUSED_EXIT_CODE = 3  # an answer: asking the same again at once would bring the same
RETRIES = 3  # while the Hub does not answer; the Job's own back-off stands between them: 10 s, 20 s, 40 s
POD_DEADLINE_SECONDS = 600  # pulling the image included, waiting for a node not
TTL_SECONDS = 900  # above the retry of a refusal, so that what is refused is asked by the Job's end and not by that

# A header of 25 MB, the largest that is read, takes ten times that once it is parsed.
RESOURCES = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}}


@dataclass(frozen=True)
class InspectorSettings:
    """The operator's configuration of the Job. `image` is the operator's own; the rest is how its client reaches the Hub.

    `files` are those of the model's ConfigMap where there are certificates among them to trust beside the public ones, else
    none: Job and pods share one copy.
    """

    image: str
    image_pull_policy: str
    hub_endpoint: str
    environment: tuple[tuple[str, str], ...] = ()
    redirect_hosts: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RepositorySubject:
    """A repository of the Hub at a revision, and the Secret (name, key) of the token that opens it."""

    repository: str
    revision: str
    secret: str
    key: str


@dataclass(frozen=True)
class FolderSubject:
    """A folder of a claim; `path` is relative, "" its top."""

    claim: str
    path: str

    @property
    def folder(self) -> str:
        return f"{VOLUME_FOLDER}/{self.path}" if self.path else VOLUME_FOLDER


Subject = RepositorySubject | FolderSubject


def inspector_name(owner: Owner, subject: Subject, replan: str) -> str:
    """The same for the same question, so that a restarted operator finds its Job, and two reconciles make one."""
    return job_name(owner, "inspect", [asdict(subject), replan])


def build_authorities(owner: Owner, settings: InspectorSettings) -> Manifest | None:
    """The model's ConfigMap, for the certificates that the Job mounts; None where there are none."""
    return build_files(owner, settings.files) if settings.files else None


def build_inspector(owner: Owner, name: str, subject: Subject, settings: InspectorSettings, pod: Pod) -> Manifest:
    """`pod` is the model's: its annotations, tolerations and pull secrets count here too. Not its labels: a Service of the
    user's that selects by them must not find this pod."""
    spec = {
        "backoffLimit": RETRIES,
        "ttlSecondsAfterFinished": TTL_SECONDS,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [REFUSED_EXIT_CODE]},
                },
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": {
            "metadata": {"labels": job_pod_labels(owner, COMPONENT), "annotations": dict(pod.annotations or {})},
            "spec": _pod_spec(owner, subject, settings, pod),
        },
    }
    return build_job(owner, name, COMPONENT, spec)


def _pod_spec(owner: Owner, subject: Subject, settings: InspectorSettings, pod: Pod) -> Manifest:
    spec: Manifest = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": POD_DEADLINE_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "tolerations": tolerations((), pod),
        "containers": [_container(subject, settings)],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}, *_volumes(owner, subject, settings)],
    }
    if pod.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret.name} for secret in pod.image_pull_secrets]
    return spec


def _container(subject: Subject, settings: InspectorSettings) -> Manifest:
    return {
        "name": CONTAINER,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["kubequant", "inspect"],
        "args": _arguments(subject, settings),
        "env": [
            *({"name": name, "value": value} for name, value in (*_ENVIRONMENT, *settings.environment)),
            *_token(subject),
        ],
        "resources": RESOURCES,
        "securityContext": container_security(),
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the container's own
            *_mounts(subject, settings),
        ],
    }


_ENVIRONMENT = (("HOME", "/tmp"), ("TMPDIR", "/tmp"), ("HF_HUB_DISABLE_TELEMETRY", "1"))  # noqa: S108


def _arguments(subject: Subject, settings: InspectorSettings) -> list[str]:
    """One word an option and its value: a value that begins with a dash stays a value."""
    if isinstance(subject, FolderSubject):
        return [f"--folder={subject.folder}", f"--within={VOLUME_FOLDER}"]
    return [
        f"--repository={subject.repository}",
        f"--revision={subject.revision}",
        f"--endpoint={settings.hub_endpoint}",
        *(f"--redirect-host={host}" for host in settings.redirect_hosts),
        *([f"--ca-file={FILES_FOLDER}/{AUTHORITIES_FILE}"] if settings.files else []),
    ]


def _token(subject: Subject) -> list[Manifest]:
    if isinstance(subject, FolderSubject):
        return []
    reference = {"name": subject.secret, "key": subject.key}
    return [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}}]


def _volumes(owner: Owner, subject: Subject, settings: InspectorSettings) -> list[Manifest]:
    """Read-only for the claim itself too, so that the kubelet changes no owner or mode of the user's files."""
    if isinstance(subject, FolderSubject):
        return [{"name": "model", "persistentVolumeClaim": {"claimName": subject.claim, "readOnly": True}}]
    if settings.files:
        items = [{"key": AUTHORITIES_FILE, "path": AUTHORITIES_FILE}]
        source = {"name": files_name(owner, settings.files), "items": items, "defaultMode": 0o444}
        return [{"name": "files", "configMap": source}]
    return []


def _mounts(subject: Subject, settings: InspectorSettings) -> list[Manifest]:
    if isinstance(subject, FolderSubject):
        return [{"name": "model", "mountPath": VOLUME_FOLDER, "readOnly": True}]
    return [{"name": "files", "mountPath": FILES_FOLDER, "readOnly": True}] if settings.files else []
