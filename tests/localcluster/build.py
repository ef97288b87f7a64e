"""Kubernetes, etcd, kwok and helm, built from the go.mod files in `go/` into the cache folder.

A binary lies in a folder named by the hash of what it is made of (go.mod, go.sum, flags), so a warm start builds
nothing and a changed module rebuilds only its own binaries.
"""

import hashlib
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import BuildError
from .paths import PACKAGE, cache_root, file_lock
from .progress import say
from .toolchain import find_go, required_version

_BUILD_TIMEOUT_SECONDS = 1800
_LOCK_TIMEOUT_SECONDS = 2400
_ENVIRONMENT = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOTOOLCHAIN": "local"}
_VERSION_PACKAGES = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")


@dataclass(frozen=True)
class Program:
    """A binary, the folder of `go/` whose go.mod pins it, and its main package."""

    name: str
    module: str
    package: str


PROGRAMS = {
    program.name: program
    for program in (
        *(
            Program(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}")
            for name in (
                "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet", "kube-proxy",
            )
        ),
        Program("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
        Program("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok"),
        Program("helm", "helm", "helm.sh/helm/v4/cmd/helm"),
    )
}  # fmt: skip


def ensure_programs(names: Iterable[str], report: Callable[[str], None] = say) -> dict[str, Path]:
    """Paths of the programs called `names`, built when the cache has them not; `report` hears the progress.

    Cold, all of them take about 9 minutes on two cores. Raises BuildError with the end of the compiler's output.
    """
    programs = [PROGRAMS[name] for name in names]
    if missing := [program for program in programs if not _path(program).exists()]:
        with file_lock(cache_root() / "build.lock", "another build of the binaries", _LOCK_TIMEOUT_SECONDS):
            # Somebody else may have built some of them while this process waited for the lock.
            _build_all([program for program in missing if not _path(program).exists()], report)
    return {program.name: _path(program) for program in programs}


def _build_all(programs: list[Program], report: Callable[[str], None]) -> None:
    for position, program in enumerate(programs, start=1):
        report(f"[{position}/{len(programs)}] building {program.name} (minutes when Go's cache is cold) ...")
        started = time.monotonic()
        _build(program, report)
        size_mb = _path(program).stat().st_size / 1e6
        report(f"[{position}/{len(programs)}] {program.name}: {time.monotonic() - started:.0f} s, {size_mb:.0f} MB")


def _build(program: Program, report: Callable[[str], None]) -> None:
    target = _path(program)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.unfinished")
    go = find_go(required_version(_go_mod(program.module)), report)
    flags = _flags(program.module)
    try:
        result = subprocess.run(
            [str(go), "build", *flags, "-o", str(unfinished), program.package], cwd=PACKAGE / "go" / program.module,
            env={**os.environ, **_ENVIRONMENT}, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise BuildError(f"building {program.name} took longer than {_BUILD_TIMEOUT_SECONDS} s") from None
    if result.returncode != 0:
        raise BuildError(f"`go build {program.package}` failed:\n{result.stderr.strip()[-2000:]}")
    unfinished.replace(target)


def _path(program: Program) -> Path:
    return cache_root() / "bin" / f"{program.module}-{_key(program.module)}" / program.name


def _key(module: str) -> str:
    folder = PACKAGE / "go" / module
    digest = hashlib.sha256()
    for part in ((folder / "go.mod").read_bytes(), (folder / "go.sum").read_bytes(), repr(_flags(module)).encode()):
        digest.update(part + b"\0")
    digest.update(repr((sorted(_ENVIRONMENT.items()), platform.system(), platform.machine())).encode())
    return digest.hexdigest()[:16]


def _flags(module: str) -> list[str]:
    linker = "-s -w"
    if module == "kubernetes":
        # Without a version the server calls itself v0.0.0-master, which misleads Helm and version checks.
        version = kubernetes_version()
        _, minor, _ = version.split(".")
        stamps = {"gitVersion": version, "gitMajor": "1", "gitMinor": minor, "gitTreeState": "clean"}
        linker += "".join(
            f" -X {package}.{key}={value}" for package in _VERSION_PACKAGES for key, value in stamps.items()
        )
    return ["-trimpath", "-ldflags", linker]


def kubernetes_version() -> str:
    """The pinned Kubernetes release, such as v1.36.3."""
    match = re.search(r"^\s*(?:require )?k8s\.io/kubernetes (v[0-9.]+)", _go_mod("kubernetes"), re.MULTILINE)
    if match is None:
        raise BuildError("go/kubernetes/go.mod does not require k8s.io/kubernetes")
    return match.group(1)


def _go_mod(module: str) -> str:
    return (PACKAGE / "go" / module / "go.mod").read_text()
