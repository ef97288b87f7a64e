"""Asks a model through its Service, as a client in the cluster would."""

from __future__ import annotations

import json
from typing import Any
from urllib.request import Request, urlopen

from tests.harness.installation import Installation


def service_url(installation: Installation, name: str, namespace: str) -> str:
    """By its ClusterIP: there is no cluster DNS here, and kube-proxy's rules hold for this machine too."""
    service = installation.get("service", name, namespace)
    assert service, f"there is no Service {name}"
    return f"http://{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}"


def chat(url: str, model: str, prompt: str, *, max_tokens: int = 16, timeout: float = 60) -> dict[str, Any]:
    """The answer of /v1/chat/completions."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
    }
    request = Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=timeout) as response:
        answer: dict[str, Any] = json.load(response)
    return answer
