"""What a machine needs to run pods for real, and what is lost without it."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from .errors import RealNodeUnavailableError

CNI_PLUGINS = Path("/usr/lib/cni")
_CAP_SYS_ADMIN = 21  # capabilities(7)
_INSTALL_TIMEOUT_SECONDS = 300
# Debian package by the file that shows that it is there.
_PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    str(CNI_PLUGINS / "bridge"): "containernetworking-plugins",
    "iptables": "iptables",
    "ip": "iproute2",
    "debootstrap": "debootstrap",
}
_COMPILER_PACKAGES = ["gcc", "libc6-dev"]
_COST = "without it no pod runs on this machine: KWOK pods remain, and the node lane and the demo's answer are left out"


def blockers() -> list[str]:
    """Sentences that say what is missing for a real node and what that costs; empty when it can run.

    Debian packages do not count where this process can install them.
    """
    found = []
    if os.geteuid() != 0 or not _has_capability(_CAP_SYS_ADMIN):
        found.append(f"root with CAP_SYS_ADMIN is needed for containers; {_COST}")
    if "avx512f" not in Path("/proc/cpuinfo").read_text():
        found.append(f"the processor has no AVX-512, which vLLM's CPU kernels for W4A16 and FP8 KV need; {_COST}")
    if (packages := _missing_packages()) and not _can_install():
        found.append(
            f"Debian packages {', '.join(packages)} are missing; {_COST}. Try: apt-get install {' '.join(packages)}"
        )
    if not _has_compiler() and not _can_install():
        found.append(
            f"a C compiler is missing, for the pause image that every pod needs; {_COST}. Try: apt-get install gcc"
        )
    return found


def ensure_prerequisites(report: Callable[[str], None]) -> None:
    """Install the missing Debian packages. Raises RealNodeUnavailableError when a real node cannot run here."""
    if found := blockers():
        raise RealNodeUnavailableError(
            "this machine cannot run a real node:\n" + "\n".join(f"- {line}" for line in found)
        )
    packages = _missing_packages() + ([] if _has_compiler() else _COMPILER_PACKAGES)
    if not packages:
        return
    report(f"installing Debian packages: {' '.join(packages)}")
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
        result = subprocess.run(
            ["apt-get", *command], capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_SECONDS,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )  # fmt: skip
        if result.returncode != 0:
            raise RealNodeUnavailableError(f"apt-get {command[0]} failed: {result.stderr.strip()[-1000:]}")


def compiler() -> str:
    """The C compiler's name. Raises RealNodeUnavailableError when there is none."""
    for name in ("gcc", "cc", "clang"):
        if shutil.which(name):
            return name
    raise RealNodeUnavailableError(
        "no C compiler (gcc, cc or clang) on this machine; try: apt-get install gcc libc6-dev"
    )


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in ("gcc", "cc", "clang"))


def _missing_packages() -> list[str]:
    return [package for sign, package in _PACKAGES.items() if not _exists(sign)]


def _exists(sign: str) -> bool:
    return Path(sign).exists() if sign.startswith("/") else shutil.which(sign) is not None


def _can_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def _has_capability(number: int) -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False
