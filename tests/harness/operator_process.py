"""The operator as a process of its own, with the ServiceAccount and ClusterRole of the chart."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import yaml

from tests.harness.waiting import wait_for

STOP_SECONDS = 20


class OperatorProcess:
    """`with OperatorProcess(kubeconfig, {...}) as operator:` runs `kubequant operator`; its log is in `operator.log`."""

    def __init__(self, kubeconfig: Path, configuration: dict[str, Any], folder: Path | None = None) -> None:
        self._kubeconfig = kubeconfig
        self._folder = folder or Path(tempfile.mkdtemp(prefix="kubequant-operator-"))
        self._configuration = {"httpPort": 0, "httpHost": "127.0.0.1", **configuration}
        self._process: subprocess.Popen[bytes] | None = None
        self._log_before = 0  # bytes of the log that earlier runs wrote
        self.log_file = self._folder / "operator.log"

    def __enter__(self) -> OperatorProcess:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> OperatorProcess:
        """Starts it; a later start appends to the same log."""
        configuration = self._folder / "operator.yaml"
        configuration.write_text(yaml.safe_dump(self._configuration))
        command = [sys.executable, "-m", "kubequant", "operator"]
        self._log_before = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--config", str(configuration), "--kubeconfig", str(self._kubeconfig)],
                stdout=log,
                stderr=log,
            )
        return self

    @property
    def pid(self) -> int:
        assert self._process, "the operator was not started"
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        assert self._process, "the operator was not started"
        return self._process.poll()

    def kill(self) -> None:
        """As a node that loses power does: no signal handler runs."""
        assert self._process, "the operator was not started"
        self._process.kill()
        self._process.wait(STOP_SECONDS)

    def stop(self) -> int:
        """Ends it as the kubelet would, and returns its exit code."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(STOP_SECONDS)
        return self._process.returncode

    def log(self) -> str:
        """Of all its runs."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def log_of_this_run(self) -> str:
        return self.log_file.read_bytes()[self._log_before :].decode(errors="replace")

    def url(self, path: str) -> str:
        """Of the probes and metrics, once the log names their port."""
        marker = "probes and metrics on port "
        line = wait_for("the operator's HTTP port", lambda: _last_with(self.log_of_this_run(), marker))
        return f"http://127.0.0.1:{line.split(marker)[1].split()[0]}{path}"

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a probe; status 0 where nothing answers."""
        try:
            with urlopen(self.url(path), timeout=5) as response:
                return response.status, response.read().decode()
        except URLError as error:
            return getattr(error, "code", 0) or 0, str(error)

    def wait_until_working(self, seconds: float = 60) -> OperatorProcess:
        """Until it leads and its store is full."""
        wait_for(f"the operator to work (log: {self.log_file})", self._is_working, seconds=seconds)
        return self

    def _is_working(self) -> bool:
        if self.exit_code is not None:
            raise RuntimeError(f"the operator ended with {self.exit_code}:\n{self.log()[-4000:]}")
        return "works on " in self.log_of_this_run()


def _last_with(text: str, marker: str) -> str:
    lines = [line for line in text.splitlines() if marker in line]
    return lines[-1] if lines else ""
