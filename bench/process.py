"""What a process has used, from /proc (Linux)."""

from __future__ import annotations

import os
from pathlib import Path

KIB_PER_MIB = 1024


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads so far."""
    # The name stands in parentheses and may hold spaces; utime and stime are fields 14 and 15 of proc(5).
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> tuple[float, float]:
    """Resident memory now, and its peak."""
    lines = (line.split(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    status = {name: value.strip() for name, value in lines if name in ("VmRSS", "VmHWM")}
    return int(status["VmRSS"].split()[0]) / KIB_PER_MIB, int(status["VmHWM"].split()[0]) / KIB_PER_MIB
