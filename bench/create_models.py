"""Creates many QuantizedModels at once, in a process of its own: `python -m bench.create_models KUBECONFIG NAMESPACE COUNT REPOSITORY`.

Prints `NAME UID` for each as soon as it exists. The operator and the bare script are both fed by it, so that neither
shares an interpreter with what creates their models.
"""

from __future__ import annotations

import asyncio
import sys

from kubequant.cluster.api import HttpKubeApi, load_configuration
from kubequant.reconcile.kinds import QUANTIZED_MODEL
from kubequant.runtime.core import CLIENT_CONCURRENCY


async def create(kubeconfig: str, namespace: str, count: int, repository: str) -> None:
    """Raises ApiError."""
    api = HttpKubeApi(await load_configuration(kubeconfig), concurrency=CLIENT_CONCURRENCY)

    async def one(number: int) -> None:
        body = {
            "apiVersion": QUANTIZED_MODEL.api_version,
            "kind": QUANTIZED_MODEL.kind,
            "metadata": {"name": f"model-{number}", "namespace": namespace},
            "spec": {"model": {"repository": repository}},
        }
        metadata = (await api.create(QUANTIZED_MODEL, body))["metadata"]
        print(metadata["name"], metadata["uid"], flush=True)

    try:
        await asyncio.gather(*(one(number) for number in range(count)))
    finally:
        await api.close()


if __name__ == "__main__":
    asyncio.run(create(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
