"""containerd for the real node: its images live in the cache folder and outlive clusters, its containers do not."""

import contextlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import IO, BinaryIO

from . import archive
from .errors import BuildError, ClusterError
from .paths import cache_root
from .prerequisites import CNI_PLUGINS, compiler
from .processes import Processes
from .waiting import wait_until

PAUSE_IMAGE = "localhost/kubequant/pause:1"
BRIDGE = "kqbr0"
POD_CIDR = "10.88.7.0/24"
_NAMESPACE = "k8s.io"  # where the kubelet's containers are
_START_TIMEOUT_SECONDS = 30
_CTR_TIMEOUT_SECONDS = 60
_SOCKET_PATH_LIMIT = 107  # unix(7)

# Without restrict_oom_score_adj every container fails where root lacks CAP_SYS_RESOURCE.
_CONFIG = """\
version = 2
root = "{root}"
state = "{directory}/state"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{pause}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_plugins}"
    conf_dir = "{directory}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""

_PAUSE_PROGRAM = """\
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void stop(int number) { exit(0); }
static void reap(int number) { while (waitpid(-1, 0, WNOHANG) > 0) {} }
int main(void) { signal(SIGTERM, stop); signal(SIGINT, stop); signal(SIGCHLD, reap); for (;;) pause(); }
"""


class Containerd:
    """One containerd with its files below `directory`."""

    def __init__(self, directory: Path, processes: Processes) -> None:
        self._directory = directory
        self._processes = processes
        self.socket = directory / "containerd.sock"

    def start(self, lock: IO[str]) -> None:
        """Start it with nothing of an earlier cluster but the images.

        containerd inherits `lock`, which is held for as long as it lives.
        """
        if len(str(self.socket)) > _SOCKET_PATH_LIMIT:
            raise ClusterError(f"{self.socket} is too long for a socket: set KUBEQUANT_CACHE to a shorter path")
        self._write_files()
        self._launch(lock)
        if self.remove_containers():
            # containerd keeps the containers that it found at its start in memory.
            self._processes.stop("containerd")
            self._launch(lock)
        if not self.has_image(PAUSE_IMAGE):
            self._import_pause_image()

    def stop(self) -> None:
        """End the containers that are left, and containerd."""
        if self._processes.is_alive("containerd"):
            with contextlib.suppress(ClusterError):
                self.remove_containers()
        self._processes.stop("containerd")

    def ctr(self, *arguments: str) -> str:
        """Run containerd's own client. Raises ClusterError."""
        result = subprocess.run(
            ["ctr", "--address", str(self.socket), "--namespace", _NAMESPACE, *arguments],
            capture_output=True, text=True, timeout=_CTR_TIMEOUT_SECONDS,
        )  # fmt: skip
        if result.returncode != 0:
            raise ClusterError(f"ctr {' '.join(arguments)} failed: {result.stderr.strip()}")
        return result.stdout

    def images(self) -> list[str]:
        """References of the images in the store."""
        return self.ctr("images", "ls", "-q").split()

    def has_image(self, reference: str) -> bool:
        return reference in self.images()

    def import_image(
        self, reference: str, config: archive.ImageConfig, layers: list[archive.Layer], timeout: float
    ) -> None:
        """Stream an image into the store and unpack it."""
        importer = subprocess.Popen(
            ["timeout", str(timeout), "ctr", "--address", str(self.socket), "--namespace", _NAMESPACE, "images", "import", "-"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert importer.stdin is not None
        stream: BinaryIO = importer.stdin  # type: ignore[assignment]
        with contextlib.suppress(BrokenPipeError):  # the importer's own words say more
            archive.write_image(stream, reference, config, layers)
        output, _ = importer.communicate()
        if importer.returncode != 0 or not self.has_image(reference):
            raise BuildError(f"importing {reference} failed ({importer.returncode}): {output.decode()[-1000:]}")

    def remove_image(self, reference: str) -> None:
        """Remove an image with all of its names: the kubelet's plugin keeps another one, which would hold its bytes."""
        # REF TYPE DIGEST SIZE ..., one image a line
        digests = {line.split()[0]: line.split()[2] for line in self.ctr("images", "ls").splitlines()[1:]}
        names = [name for name, digest in digests.items() if digest == digests[reference]]
        self.ctr("images", "remove", "--sync", *names)

    def remove_containers(self) -> bool:
        """Remove every container; returns whether there was one."""
        containers = self.ctr("containers", "ls", "-q").split()
        for identifier in containers:
            description = json.loads(self.ctr("containers", "info", identifier))
            with contextlib.suppress(ClusterError):  # not every container runs
                self.ctr("tasks", "delete", "--force", identifier)
            self.ctr("containers", "delete", identifier)
            _remove_network_namespace(description)
        return bool(containers)

    def _launch(self, lock: IO[str]) -> None:
        self._processes.start(
            "containerd", ["containerd", "--config", self._directory / "containerd.toml"], pass_fds=(lock.fileno(),)
        )
        wait_until(
            self._answers, "containerd to answer", _START_TIMEOUT_SECONDS, self._processes.log("containerd"),
            alive=lambda: self._processes.is_alive("containerd"),
        )  # fmt: skip

    def _answers(self) -> bool:
        try:
            self.ctr("version")
        except ClusterError:
            return False
        return True

    def _write_files(self) -> None:
        (self._directory / "cni").mkdir(parents=True, exist_ok=True)
        config = _CONFIG.format(
            root=cache_root() / "containerd", directory=self._directory, socket=self.socket, pause=PAUSE_IMAGE,
            cni_plugins=CNI_PLUGINS,
        )  # fmt: skip
        (self._directory / "containerd.toml").write_text(config)
        (self._directory / "cni" / "10-bridge.conflist").write_text(json.dumps(self._network(), indent=2))

    def _network(self) -> dict[str, object]:
        addresses = {
            "type": "host-local", "dataDir": str(self._directory / "ipam"), "ranges": [[{"subnet": POD_CIDR}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }  # fmt: skip
        bridge = {
            "type": "bridge",
            "bridge": BRIDGE,
            "isGateway": True,
            "ipMasq": False,
            "hairpinMode": True,
            "ipam": addresses,
        }
        return {"cniVersion": "0.4.0", "name": "kubequant", "plugins": [bridge]}

    def _import_pause_image(self) -> None:
        folder = self._directory / "pause"
        folder.mkdir(exist_ok=True)
        program = self._directory / "pause.c"
        program.write_text(_PAUSE_PROGRAM)
        result = subprocess.run(
            [compiler(), "-static", "-Os", "-o", str(folder / "pause"), str(program)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        if result.returncode != 0:
            raise BuildError(f"the pause program does not compile: {result.stderr.strip()[-1000:]}")
        config = archive.ImageConfig(environment=["PATH=/"], entrypoint=["/pause"], user="65532")
        self.import_image(PAUSE_IMAGE, config, [archive.Layer(folder)], timeout=60)
        shutil.rmtree(folder)


def _remove_network_namespace(container: dict[str, object]) -> None:
    spec = container.get("Spec")
    namespaces = spec.get("linux", {}).get("namespaces", []) if isinstance(spec, dict) else []
    for namespace in namespaces:
        if namespace.get("type") == "network" and (path := Path(namespace.get("path", ""))).name.startswith("cni-"):
            subprocess.run(["ip", "netns", "delete", path.name], capture_output=True, timeout=30)
