"""FakeKubelet: plays the node for inspector pods, which KWOK schedules and does not run.

It does what a kubelet would do for them: resolves the Secret's key into HF_TOKEN, finds the claim's folder, runs the very
command line of the pod as a process of this machine, and writes its end and termination message into the pod's status.
The isolation, the image and the mount itself are those of tests/node.
"""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from kubequant.manifests.inspector import VOLUME_FOLDER
from tests.harness import Installation
from tests.harness.api_server import RefusedByServerError

INSPECTORS = "app.kubernetes.io/component=inspector"
EVERY_SECONDS = 0.2
RUN_SECONDS = 60


class FakeKubelet:
    """`with FakeKubelet(installation, namespace, {"claim": folder}):`; `forged` is the message in place of what the command says."""

    def __init__(
        self, installation: Installation, namespace: str, claims: Mapping[str, Path] | None = None, *, forged: str = ""
    ) -> None:
        self._installation, self._namespace = installation, namespace
        self._claims, self._forged = claims or {}, forged
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.ran: list[list[str]] = []  # command lines

    def __enter__(self) -> FakeKubelet:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(RUN_SECONDS)

    def _run(self) -> None:
        while not self._stop.wait(EVERY_SECONDS):
            for pod in self._installation.list("pods", self._namespace, INSPECTORS):
                if pod["status"].get("phase") == "Running":
                    with contextlib.suppress(RefusedByServerError):  # deleted in the meantime
                        self._play(pod)

    def _play(self, pod: dict[str, Any]) -> None:
        (container,) = pod["spec"]["containers"]
        try:
            environment = {entry["name"]: self._value(entry) for entry in container["env"]}
        except LookupError as missing:
            waiting = {"reason": "CreateContainerConfigError", "message": str(missing.args[0])}
            self._report(pod, {"containerStatuses": [_status(container, {"waiting": waiting})]})
            return
        code, message = self._executed(pod, container, environment)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        reason = "Error" if code else "Completed"
        end = {"exitCode": code, "reason": reason, "message": message, "startedAt": now, "finishedAt": now}
        phase = "Failed" if code else "Succeeded"
        self._report(pod, {"phase": phase, "containerStatuses": [_status(container, {"terminated": end})]})

    def _value(self, entry: dict[str, Any]) -> str:
        if "value" in entry:
            return str(entry["value"])
        reference = entry["valueFrom"]["secretKeyRef"]
        secret = self._installation.get("secrets", reference["name"], self._namespace)
        if secret is None:
            raise LookupError(f'secret "{reference["name"]}" not found')
        if reference["key"] not in secret.get("data", {}):
            raise LookupError(f"couldn't find key {reference['key']} in Secret {self._namespace}/{reference['name']}")
        return base64.b64decode(secret["data"][reference["key"]]).decode()

    def _executed(self, pod: dict[str, Any], container: dict[str, Any], environment: dict[str, str]) -> tuple[int, str]:
        assert container["command"] == ["kubequant", "inspect"]
        self.ran.append(container["args"])
        if self._forged:
            return 0, self._forged
        arguments = [self._mounted(pod, argument) for argument in container["args"]]
        with tempfile.TemporaryDirectory() as home:
            log = Path(home, "termination-log")
            log.touch()
            done = subprocess.run(
                [sys.executable, "-m", "kubequant", "inspect", *arguments, f"--termination-log={log}"],
                env={"PATH": os.environ["PATH"], **environment, "HOME": home, "TMPDIR": home},
                capture_output=True, timeout=RUN_SECONDS, check=False,
            )  # fmt: skip
            return done.returncode, log.read_text()

    def _mounted(self, pod: dict[str, Any], argument: str) -> str:
        """An argument with the claim's folder on this machine in the place of where the pod mounts it."""
        claims = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["spec"]["volumes"]
                  if "persistentVolumeClaim" in volume]  # fmt: skip
        return argument.replace(f"={VOLUME_FOLDER}", f"={self._claims[claims[0]]}") if claims else argument

    def _report(self, pod: dict[str, Any], status: dict[str, Any]) -> None:
        metadata = pod["metadata"]
        self._installation.api.patch("pods", metadata["name"], {"status": status}, metadata["namespace"], "status")


def _status(container: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    image = {"name": container["name"], "image": container["image"], "imageID": ""}
    return {**image, "ready": False, "restartCount": 0, "started": False, "state": state}
