"""`kubequant gpus`: the GPUs that plans can rest on, and the table of those that are known."""

from __future__ import annotations

import click

from kubequant.cli import documents, drawing
from kubequant.cli.fleet import fleet_to_plan_on
from kubequant.cli.options import FleetOptions
from kubequant.cli.output import answering
from kubequant.planning.gpu_table import KnownGpu
from kubequant.planning.text import gib
from kubequant.runtime.settings import Settings, gpu_table


def run_gpus(options: FleetOptions, settings: Settings, output: str) -> None:
    """Prints the fleet. Raises Misuse, and of the cluster ApiError, ConfigException and OSError."""
    fleet = fleet_to_plan_on(options, settings, with_free=True)
    with answering():
        if output == "text":
            drawing.draw_fleet(drawing.console(), fleet)
        else:
            _echo(documents.fleet_document(fleet), output)


def run_known(settings: Settings, output: str) -> None:
    """Prints the table that names and missing labels are looked up in."""
    known = sorted(gpu_table(settings).rows.values(), key=lambda gpu: gpu.product)
    with answering():
        if output == "text":
            drawing.draw_table(drawing.console(), _columns(known))
        else:
            _echo({"gpus": [_document(gpu) for gpu in known]}, output)


def _columns(known: list[KnownGpu]) -> list[drawing.Column]:
    return [
        ("product", [gpu.product for gpu in known], "left"),
        ("memory", [gib(gpu.memory_bytes) if gpu.memory_bytes else "unknown" for gpu in known], "right"),
        ("capability", [str(gpu.compute_capability) for gpu in known], "right"),
        ("bandwidth", [_rate(gpu.bandwidth_bytes_per_second) for gpu in known], "right"),
        ("also called", [" ".join(gpu.also_called) for gpu in known], "left"),
    ]


def _rate(bytes_per_second: int | None) -> str:
    return "" if bytes_per_second is None else f"{bytes_per_second // 10**9:,} GB/s"


def _document(gpu: KnownGpu) -> documents.Document:
    return {
        "product": gpu.product,
        "alsoCalled": list(gpu.also_called),
        "labelMemoryBytes": gpu.memory_bytes,
        "computeCapability": str(gpu.compute_capability),
        "bandwidthBytesPerSecond": gpu.bandwidth_bytes_per_second,
        "flops16Bit": gpu.flops_16bit,
        "flopsFp8": gpu.flops_fp8,
        "flopsFp4": gpu.flops_fp4,
        "opsInt8": gpu.ops_int8,
    }


def _echo(document: documents.Document, output: str) -> None:
    click.echo((documents.as_json if output == "json" else documents.as_yaml)(document))
