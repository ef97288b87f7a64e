"""A Debian root file system with Python, from the package mirror that this machine's apt uses."""

import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from .errors import BuildError
from .paths import cache_root, file_lock

SUITE = "bookworm"  # its Python, 3.11, is the one that the engines' locks were resolved for
_PACKAGES = ("ca-certificates", "libnuma1", "python3", "python3-venv")  # vLLM's CPU build loads libnuma
_TIMEOUT_SECONDS = 900


def rootfs_key() -> str:
    """Names the content: suite and packages. The mirror does not matter to it."""
    return hashlib.sha256(repr((SUITE, _PACKAGES)).encode()).hexdigest()[:12]


def ensure_rootfs(report: Callable[[str], None]) -> Path:
    """The folder with the file system, made by debootstrap once: about 40 s and 280 MB. Raises BuildError."""
    folder = cache_root() / "rootfs" / f"{SUITE}-{rootfs_key()}"
    with file_lock(cache_root() / "rootfs.lock", "another debootstrap", _TIMEOUT_SECONDS):
        if not folder.exists():
            _debootstrap(folder, report)
    return folder


def _debootstrap(folder: Path, report: Callable[[str], None]) -> None:
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    report(f"debootstrap {SUITE} from the mirror that apt uses (about 40 s)")
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", SUITE, str(unfinished)]
    if mirror := debian_mirror():
        command.append(mirror)
    result = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)
    if result.returncode != 0:
        raise BuildError(f"debootstrap failed:\n{(result.stdout + result.stderr).strip()[-1500:]}")
    shutil.rmtree(unfinished / "var" / "cache" / "apt", ignore_errors=True)
    shutil.rmtree(unfinished / "var" / "lib" / "apt" / "lists", ignore_errors=True)
    unfinished.rename(folder)


def debian_mirror(apt: Path = Path("/etc/apt")) -> str | None:
    """The first Debian mirror among apt's sources, in either of their formats. None: debootstrap's own choice will do."""
    for path in [apt / "sources.list", *sorted(apt.glob("sources.list.d/*"))]:
        if path.is_file() and (match := _MIRROR_LINE.search(path.read_text(errors="replace"))):
            return match.group("uri").rstrip("/")
    return None


# `deb [options] URI suite ...`, or `URIs: URI` of deb822; a mirror of Debian itself ends in /debian.
_MIRROR_LINE = re.compile(r"^(?:deb\s+(?:\[[^\]]*\]\s+)?|URIs:\s*)(?P<uri>\S+/debian/?)(?:\s|$)", re.MULTILINE)
