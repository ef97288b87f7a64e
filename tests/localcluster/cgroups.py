"""The control group that the real node's pods live under."""

import contextlib
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def make_cgroup(name: str) -> str:
    """Make the group and return its path as the kubelet's `cgroupRoot` wants it."""
    if _is_version_2():
        return "/"  # the kubelet makes what it needs
    for hierarchy in _hierarchies():
        (hierarchy / name).mkdir(exist_ok=True)
    # A new cpuset is empty, and no process can enter it.
    for setting in ("cpuset.cpus", "cpuset.mems"):
        with contextlib.suppress(FileNotFoundError):
            (_ROOT / "cpuset" / name / setting).write_text((_ROOT / "cpuset" / setting).read_text())
    return f"/{name}"


def remove_cgroup(name: str) -> None:
    """Remove the group with its empty descendants; one that still has a process stays."""
    # runc also makes the group in the version 2 hierarchy that lies beside the others.
    for hierarchy in [_ROOT] if _is_version_2() else [*_hierarchies(), _ROOT / "unified"]:
        # Deepest first: a group can be removed only when it has no child.
        for group in sorted((hierarchy / name).rglob("*/"), reverse=True):
            with contextlib.suppress(OSError):
                group.rmdir()
        with contextlib.suppress(OSError):
            (hierarchy / name).rmdir()


def _is_version_2() -> bool:
    return (_ROOT / "cgroup.controllers").exists()


def _hierarchies() -> list[Path]:
    """The version 1 hierarchies; symlinks such as cpu -> cpu,cpuacct are the same hierarchy again."""
    return [
        path for path in sorted(_ROOT.iterdir()) if path.is_dir() and not path.is_symlink() and path.name != "unified"
    ]
