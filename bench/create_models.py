"""Creates many QuantizedModels at once, in a process of its own:
`python -m bench.create_models KUBECONFIG NAMESPACE COUNT REPOSITORY... [--mode Plan]`, the repositories in turn.

Prints `NAME UID` for each as soon as it exists. The operator and the bare script are both fed by it, so that neither
shares an interpreter with what creates their models.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

from kubequant.cluster.api import HttpKubeApi, load_configuration
from kubequant.reconcile.kinds import QUANTIZED_MODEL
from kubequant.runtime.core import CLIENT_CONCURRENCY


async def create(kubeconfig: str, namespace: str, count: int, repositories: Sequence[str], mode: str) -> None:
    """Raises ApiError."""
    api = HttpKubeApi(await load_configuration(kubeconfig), concurrency=CLIENT_CONCURRENCY)

    async def one(number: int) -> None:
        body = {
            "apiVersion": QUANTIZED_MODEL.api_version,
            "kind": QUANTIZED_MODEL.kind,
            "metadata": {"name": f"model-{number}", "namespace": namespace},
            "spec": {"model": {"repository": repositories[number % len(repositories)]}, "mode": mode},
        }
        metadata = (await api.create(QUANTIZED_MODEL, body))["metadata"]
        print(metadata["name"], metadata["uid"], flush=True)

    try:
        await asyncio.gather(*(one(number) for number in range(count)))
    finally:
        await api.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kubeconfig")
    parser.add_argument("namespace")
    parser.add_argument("count", type=int)
    parser.add_argument("repositories", nargs="+")
    parser.add_argument("--mode", default="Serve")
    given = parser.parse_args()
    asyncio.run(create(given.kubeconfig, given.namespace, given.count, given.repositories, given.mode))
