"""What this machine's processor lets the CPU engines do."""

from __future__ import annotations

from pathlib import Path


def can_serve_w4a16(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """None when vLLM's CPU kernels for W4A16 and for an FP8 KV cache run here, else the reason why not."""
    if not cpuinfo.is_file():
        return f"{cpuinfo} is not there: vLLM's CPU build needs Linux"
    if "avx512f" not in _flags(cpuinfo.read_text()):
        return "the processor has no AVX-512 (no avx512f flag): vLLM's CPU kernels for W4A16 and FP8 KV need it"
    return None


def _flags(cpuinfo: str) -> set[str]:
    """The flags of the first processor."""
    lines = (line.partition(":")[2] for line in cpuinfo.splitlines() if line.startswith("flags"))
    return set(next(lines, "").split())
