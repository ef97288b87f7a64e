"""Images for the real node, which no registry gives: Debian with Python, and on it the CPU build of vLLM, or the operator.

They are written from folders straight into the node's store, which outlives clusters: once per content.
"""

import hashlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from tests.engines.environments import run_in, vllm_environment

from . import archive, rootfs
from .cluster import Cluster
from .operator_environment import operator_environment
from .paths import cache_root, file_lock

_REPOSITORY = "localhost/kubequant"
_ENVIRONMENT_PATH = "opt/vllm"
_OPERATOR_PATH = "opt/kubequant"
_IMPORT_TIMEOUT_SECONDS = 900
_NOBODY = "65532"  # numeric, so that runAsNonRoot can be checked; it has no entry in /etc/passwd, as in most images
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_COMPILE_TIMEOUT_SECONDS = 300
_ENGINE_MODULES = (
    "vllm.entrypoints.cli.main",
    "vllm.entrypoints.cli.serve",
    "vllm.entrypoints.openai.api_server",
    "vllm.model_executor.models.llama",
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.worker.cpu_worker",
)
_RECIPE = "2"  # to be raised when what this module writes changes


def ensure_base_image(cluster: Cluster) -> str:
    """Reference of an image with Debian, python3 on PATH and a non-root user; imported once, seconds."""
    reference = f"{_REPOSITORY}/debian-python:{_digest(rootfs.rootfs_key())}"
    config = archive.ImageConfig(environment=[f"PATH={_PATH}"], user=_NOBODY)
    with _import_lock():
        if not cluster.containerd.has_image(reference):
            _import(cluster, reference, config, [archive.Layer(rootfs.ensure_rootfs(cluster.report))])
    return reference


def ensure_engine_image(cluster: Cluster) -> str:
    """Reference of an image with `vllm` and `python3` on PATH, for pods with `imagePullPolicy: IfNotPresent`.

    The first call on a machine takes minutes and about 15 GB of disk, later ones a moment. Raises BuildError.
    """
    environment = vllm_environment()
    # The environment's folder is named by its content.
    reference = f"{_REPOSITORY}/vllm-cpu:{_digest(rootfs.rootfs_key(), environment.name)}"
    path = f"/{_ENVIRONMENT_PATH}/bin:{_PATH}"
    config = archive.ImageConfig([f"PATH={path}"], entrypoint=["vllm", "serve"], user=_NOBODY)
    with _import_lock():
        if not cluster.containerd.has_image(reference):
            _compile_bytecode(environment, cluster.report)
            layers = [
                archive.Layer(rootfs.ensure_rootfs(cluster.report)),
                _environment_layer(environment, _ENVIRONMENT_PATH),
            ]
            _import(cluster, reference, config, layers)
    return reference


def ensure_operator_image(cluster: Cluster) -> str:
    """Reference of an image with `kubequant` on PATH, made from this checkout; seconds, once for each content of it."""
    environment = operator_environment()
    reference = f"{_REPOSITORY}/operator:{_digest(rootfs.rootfs_key(), environment.name)}"
    config = archive.ImageConfig([f"PATH=/{_OPERATOR_PATH}/bin:{_PATH}"], entrypoint=["kubequant"], user=_NOBODY)
    with _import_lock():
        if not cluster.containerd.has_image(reference):
            layers = [
                archive.Layer(rootfs.ensure_rootfs(cluster.report)),
                _environment_layer(environment, _OPERATOR_PATH),
            ]
            _import(cluster, reference, config, layers)
    return reference


def _compile_bytecode(environment: Path, report: Callable[[str], None]) -> None:
    """Import what the engine's processes import, so that pods, whose root is read-only, need not compile it each time.

    Only what is used: compiling all of the environment takes minutes.
    """
    report("compiling the engine's modules to bytecode")
    modules = ", ".join(_ENGINE_MODULES)
    run_in(
        environment,
        ["-c", f"import {modules}"],
        timeout_seconds=_COMPILE_TIMEOUT_SECONDS,
        variables={"PYTHONDONTWRITEBYTECODE": ""},
    )


def _environment_layer(environment: Path, target: str) -> archive.Layer:
    """The environment with the image's Python in the place of this machine's."""
    interpreters = {str(path.relative_to(environment)): "/usr/bin/python3" for path in environment.glob("bin/python*")}
    settings = "home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11\n"
    return archive.Layer(environment, target, {**interpreters, "pyvenv.cfg": settings.encode()})


def _import(cluster: Cluster, reference: str, config: archive.ImageConfig, layers: list[archive.Layer]) -> None:
    _remove_outdated(cluster, reference.rpartition(":")[0] + ":")
    started = time.monotonic()
    cluster.report(f"importing {reference} into the node (minutes for the engine) ...")
    cluster.containerd.import_image(reference, config, layers, _IMPORT_TIMEOUT_SECONDS)
    cluster.report(f"imported {reference} in {time.monotonic() - started:.0f} s")


def _remove_outdated(cluster: Cluster, prefix: str) -> None:
    """An engine takes 11 GB in the store, and only one of them is ever in use."""
    for reference in cluster.containerd.images():
        if reference.startswith(prefix):
            cluster.report(f"removing {reference}, which is out of date")
            cluster.containerd.remove_image(reference)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join((_RECIPE, *parts)).encode()).hexdigest()[:12]


def _import_lock() -> AbstractContextManager[None]:
    return file_lock(cache_root() / "images.lock", "another import of an image", _IMPORT_TIMEOUT_SECONDS)
