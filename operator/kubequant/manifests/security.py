"""Pod Security `restricted`, as every pod of ours has it."""

from __future__ import annotations

from typing import Any

USER_ID = 65532


def pod_security() -> dict[str, Any]:
    """The pod's half. One user for all: what a Job can read of a volume, engines can."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> dict[str, Any]:
    """The container's half."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
