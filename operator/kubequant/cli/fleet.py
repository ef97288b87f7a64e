"""The GPUs to plan on: named by flags, listed in a file, or the cluster's."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from kubequant.cli.cluster import other_makers_gpus, seen_in_cluster
from kubequant.cli.faults import kind_of
from kubequant.cli.options import FleetOptions, Misuse, read_bounded
from kubequant.errors import Refused
from kubequant.planning.engines.vllm import VLLM_0_33
from kubequant.planning.gpu_table import (
    AmbiguousGpuError,
    GpuNotFoundError,
    GpuTable,
    find_gpu,
    gpu_class_of,
    mig_profile_of,
)
from kubequant.planning.gpus import NodeFacts, fleet_of
from kubequant.planning.pools import label_keys
from kubequant.planning.values import Fleet, UnreadableNode
from kubequant.reconcile.records import node_facts
from kubequant.runtime.settings import Settings, gpu_pools, gpu_table

MAX_FLEET_BYTES = 200_000_000  # 5,000 nodes as kubectl prints them take 50 MB
MAX_GPUS_PER_NODE = 64
MAX_PRICE = 1_000_000.0

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where libyaml is there


def fleet_to_plan_on(options: FleetOptions, settings: Settings, *, with_free: bool = False) -> Fleet:
    """Raises Misuse, and of the cluster ApiError, ConfigException and OSError.

    `with_free` counts what pods hold on the cluster's GPUs; a plan never rests on that.
    """
    if options.gpus and options.file:
        raise Misuse("--gpu and --fleet are two answers to one question: give one of them")
    table, pools = gpu_table(settings), gpu_pools(settings)
    if options.gpus:
        fleet = named_fleet(options.gpus, table)
    elif options.file:
        nodes, others = nodes_of_file(options.file, label_keys(pools))
        fleet = _with_others(fleet_of(nodes, pools, table), others)
    else:
        nodes, others, used = asyncio.run(seen_in_cluster(options.kubeconfig, label_keys(pools), with_free=with_free))
        fleet = _with_others(fleet_of(nodes, pools, table, used), others)
    return priced(fleet, options.prices, table)


def _with_others(fleet: Fleet, others: Sequence[UnreadableNode]) -> Fleet:
    return replace(fleet, unreadable=tuple(sorted((*fleet.unreadable, *others), key=lambda node: node.name)))


def named_fleet(names: Sequence[str], table: GpuTable) -> Fleet:
    """One node for each `PRODUCT[:COUNT]`. Raises Misuse where nobody knows the product."""
    counts: defaultdict[str, list[int]] = defaultdict(list)
    for text in names:
        product, count = _named(text, table)
        counts[product].append(count)
    try:
        classes = [gpu_class_of(table.rows[name], max(each), len(each), table) for name, each in sorted(counts.items())]
    except Refused as refused:
        raise Misuse(f"--gpu: {refused.message}") from refused
    return Fleet(tuple(classes), nodes=len(names))


def _named(text: str, table: GpuTable) -> tuple[str, int]:
    name, colon, count = text.partition(":")
    if colon and not (count.isascii() and count.isdecimal() and 1 <= int(count[:9]) <= MAX_GPUS_PER_NODE):
        raise Misuse(f"--gpu {text}: write PRODUCT or PRODUCT:COUNT, a count from 1 to {MAX_GPUS_PER_NODE}")
    return _product(name, table, "--gpu"), int(count or 1)


def _product(name: str, table: GpuTable, flag: str) -> str:
    try:
        return find_gpu(name, table).product
    except GpuNotFoundError as error:
        if mig_profile_of(name.upper()):
            raise Misuse(
                f"{flag} {name[:64]}: the table has no memory of MIG slices, which drivers decide. Give the nodes that have "
                "them (--fleet FILE), or a row of gpuTable with this product, memoryMiB and computeCapability (--config FILE)"
            ) from error
        floor = VLLM_0_33.capability_floor
        served = f". Only NVIDIA GPUs of compute capability {floor} and above serve models"
        raise Misuse(f"{flag}: {error.message}{'' if isinstance(error, AmbiguousGpuError) else served}") from error


def nodes_of_file(file: Path, pool_labels: Set[str] = frozenset()) -> tuple[list[NodeFacts], list[UnreadableNode]]:
    """The nodes in what `kubectl get nodes -o yaml` (or json) printed, and those with GPUs of other makers. Raises Misuse."""
    try:
        bodies = [_node(file, item) for document in _documents(file) for item in _items(file, document)]
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise Misuse(f"--fleet {file} cannot be read: {error}") from error
    names = Counter(body["metadata"]["name"] for body in bodies)
    if twice := sorted(name for name, times in names.items() if times > 1):
        raise Misuse(
            f"--fleet {file} lists the node {twice[0]} {names[twice[0]]} times: list each once, and the nodes of one "
            "cluster in one file"
        )
    others = [other for body in bodies if (other := other_makers_gpus(body))]
    return [node_facts(body, pool_labels) for body in bodies], others


def _documents(file: Path) -> Iterator[Any]:
    text = read_bounded(file, MAX_FLEET_BYTES).decode("utf-8")
    try:
        yield json.loads(text)
    except ValueError:
        yield from (document for document in yaml.load_all(text, Loader=_LOADER) if document is not None)


def _items(file: Path, document: Any) -> Iterable[Any]:
    kind = document.get("kind") if isinstance(document, Mapping) else None
    if kind == "Node":
        return [document]
    items = document if isinstance(document, list) else document.get("items") if kind in ("List", "NodeList") else None
    if not isinstance(items, list):
        raise Misuse(f"--fleet {file} holds {_held(document)}: give it what `kubectl get nodes -o yaml` prints")
    return items


def _held(document: Any) -> str:
    kind = document.get("kind") if isinstance(document, Mapping) else None
    return f"a {str(kind)[:64]}" if kind else kind_of(document)


def _node(file: Path, item: Any) -> dict[str, Any]:
    """What is read of a Node, checked for the shape that `node_facts` takes for granted: no API server has seen this file."""
    if not isinstance(item, Mapping) or item.get("kind", "Node") != "Node":
        raise Misuse(
            f"--fleet {file} holds {_held(item)} among its items: give it what `kubectl get nodes -o yaml` prints"
        )
    metadata, spec, status = (_section(file, item, name) for name in ("metadata", "spec", "status"))
    name = metadata.get("name")
    if not isinstance(name, str):
        raise Misuse(f"--fleet {file} holds a Node without a name")
    return {
        "metadata": {"name": name, "labels": _texts(file, _section(file, metadata, "labels"))},
        "spec": {"unschedulable": spec.get("unschedulable"), "taints": _taints(file, spec)},
        "status": {"allocatable": _texts(file, _section(file, status, "allocatable"))},
    }


def _taints(file: Path, spec: Mapping[str, Any]) -> list[dict[str, str]]:
    taints = spec.get("taints") or []
    if not (isinstance(taints, list) and all(isinstance(taint, Mapping) for taint in taints)):
        raise Misuse(f"--fleet {file} holds a Node whose taints are no list of taints")
    return [_texts(file, {key: value for key, value in taint.items() if value is not None}) for taint in taints]


def _texts(file: Path, section: Mapping[str, Any]) -> dict[str, str]:
    """Plain values as text: YAML reads an unquoted 80 as a number, and aliases can nest a value without end."""
    for key, value in section.items():
        if not isinstance(value, str | int | float):
            raise Misuse(f"--fleet {file} holds a Node whose {str(key)[:80]} is a {type(value).__name__}")
    return {str(key): str(value) for key, value in section.items()}


def _section(file: Path, holder: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = holder.get(name)
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        raise Misuse(f"--fleet {file} holds a Node whose {name} is a {type(section).__name__}")
    return section


def priced(fleet: Fleet, prices: Sequence[str], table: GpuTable) -> Fleet:
    """The fleet with the prices of `PRODUCT=PRICE`, of one GPU an hour. Raises Misuse."""
    products = {gpu.product.lower(): gpu.product for gpu in fleet.classes}
    by_product: dict[str, float] = {}
    for text in prices:
        name, price = _price(text)
        product = products.get(name.lower()) or _product(name, table, "--price")
        if product not in products.values():
            there = ", ".join(products.values()) or "none"
            raise Misuse(f"--price {text}: {product} is not among the GPUs to plan on ({there})")
        by_product[product] = price
    classes = [replace(gpu, price_per_hour=by_product.get(gpu.product, gpu.price_per_hour)) for gpu in fleet.classes]
    return replace(fleet, classes=tuple(classes))


def _price(text: str) -> tuple[str, float]:
    name, equals, amount = text.rpartition("=")
    try:
        price = float(amount)
    except ValueError:
        price = math.nan
    if not (equals and 0 < price <= MAX_PRICE):
        raise Misuse(f"--price {text}: write PRODUCT=PRICE, a price of one GPU an hour above 0, as in NVIDIA-L4=0.8")
    return name, price
