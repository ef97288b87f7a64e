"""Processes that outlive the command that started them, and are never confused with others.

Each component runs in its own session (Ctrl-C in a terminal does not reach it) and is remembered by process id *and*
start time: an id that the kernel has given to somebody else in the meantime is never signalled.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .waiting import wait_until

_STATE_FIELD, _START_TIME_FIELD = 0, 19  # positions in /proc/PID/stat after the command name, see proc(5)


@dataclass(frozen=True)
class ProcessRecord:
    """A process as written to disk: its id, and its start in clock ticks since boot."""

    pid: int
    start_ticks: int

    def is_alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        fields = _stat_fields(self.pid)
        return fields is not None and fields[_STATE_FIELD] != "Z" and int(fields[_START_TIME_FIELD]) == self.start_ticks


def _stat_fields(pid: int) -> list[str] | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return stat.rpartition(")")[2].split()


class Processes:
    """The components of one cluster: `run/NAME.json` remembers them, `log/NAME.log` has their output."""

    def __init__(self, directory: Path) -> None:
        self._run = directory / "run"
        self._log = directory / "log"
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def log(self, name: str) -> Path:
        return self._log / f"{name}.log"

    def names(self) -> list[str]:
        """Components that were started and not stopped, dead or alive."""
        return sorted(path.stem for path in self._run.glob("*.json"))

    def is_alive(self, name: str) -> bool:
        self._reap(name)
        record = self._record(name)
        return record is not None and record.is_alive()

    def pid(self, name: str) -> int | None:
        record = self._record(name)
        return record.pid if record is not None and record.is_alive() else None

    def start(self, name: str, command: Sequence[str | Path], pass_fds: Collection[int] = ()) -> None:
        """Start a component unless it runs already; its log is appended to. It inherits `pass_fds`."""
        if self.is_alive(name):
            return
        self._run.mkdir(parents=True, exist_ok=True)
        self._log.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab") as output:
            child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=pass_fds,
            )
        self._children[name] = child
        fields = _stat_fields(child.pid)
        assert fields is not None, "a child that was not waited for has an entry in /proc"
        record = ProcessRecord(child.pid, int(fields[_START_TIME_FIELD]))
        self._path(name).write_text(json.dumps(asdict(record)))

    def stop(self, name: str, grace: float = 10) -> None:
        """End a component: SIGTERM, and SIGKILL to its whole session after `grace` seconds. No-op when it is gone."""
        record = self._record(name)
        if record is not None and record.is_alive():
            self._signal(record, signal.SIGTERM)
            if not self._gone_within(name, record, grace):
                self._signal(record, signal.SIGKILL)
                wait_until(lambda: self._is_gone(name, record), f"{name} (pid {record.pid}) to end after SIGKILL", 10)
        self._path(name).unlink(missing_ok=True)

    def _gone_within(self, name: str, record: ProcessRecord, grace: float) -> bool:
        deadline = time.monotonic() + grace
        while not self._is_gone(name, record):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _is_gone(self, name: str, record: ProcessRecord) -> bool:
        self._reap(name)
        return not record.is_alive()

    def _reap(self, name: str) -> None:
        """Take the exit status of our own child, which would stay a zombie as long as we live."""
        child = self._children.get(name)
        if child is not None and child.poll() is not None:
            del self._children[name]

    @staticmethod
    def _signal(record: ProcessRecord, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(record.pid, number)
            else:
                os.kill(record.pid, number)

    def _record(self, name: str) -> ProcessRecord | None:
        try:
            return ProcessRecord(**json.loads(self._path(name).read_text()))
        except (FileNotFoundError, ValueError):
            return None

    def _path(self, name: str) -> Path:
        return self._run / f"{name}.json"
