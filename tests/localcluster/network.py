"""Ports and addresses on this machine."""

import random
import socket
from collections.abc import Collection

# Below the kernel's ephemeral range, so that no outgoing connection takes a port while its server restarts,
# and below Kubernetes' NodePorts.
_PORTS = range(20000, 30000)


def free_ports(count: int, taken: Collection[int]) -> list[int]:
    """`count` TCP ports that nobody listens on now and that are not in `taken`."""
    chosen: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        if len(chosen) == count:
            break
        if port not in taken and _is_free(port):
            chosen.append(port)
    return chosen


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True


def host_address() -> str:
    """The IPv4 address that other network namespaces reach this host by; loopback when there is no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket sends nothing: the kernel only picks the source address.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        address: str = probe.getsockname()[0]
        return address
