"""From the headers of many files to the tensors that are loaded, as classes. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from kubequant.api.conditions import Reason
from kubequant.hub.documents import quoted
from kubequant.hub.repository import Listing
from kubequant.hub.shards import CorruptShardError, Header
from kubequant.planning.values import TensorClass

MAX_CLASSES = 256  # of all files together, as planning allows one; dense decoders have 10 to 40


class ShardIndex:
    """Which file an index says holds which tensor; empty where there is no index."""

    def __init__(self, weight_map: Mapping[str, str]) -> None:
        self._weight_map = weight_map
        self._due: defaultdict[str, set[str]] = defaultdict(set)
        for name, shard in weight_map.items():
            self._due[shard].add(name)

    @property
    def shards(self) -> list[str]:
        return sorted(self._due)

    def loaded_from(self, shard: str, header: Header) -> Header:
        """The tensors of a file that count: not those which the index places in another one.

        Raises CorruptShardError when tensors that the index places here are missing.
        """
        counted = {name: tensor for name, tensor in header.items() if self._weight_map.get(name, shard) == shard}
        if missing := sorted(self._due.get(shard, set()).difference(counted)):
            raise CorruptShardError(
                f"it lacks {len(missing)} of the {len(self._due[shard])} tensors that the index places in it, "
                f"first {quoted(missing[0])}"
            )
        return counted


class ClassSums:
    """Adds up the classes of a model's files, so that no list of all its tensors is ever held."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._classes: dict[tuple[str, str, tuple[int, ...]], TensorClass] = {}

    def add(self, classes: Iterable[TensorClass]) -> None:
        """Raises Refused beyond MAX_CLASSES."""
        for new in classes:
            key = (new.pattern, new.dtype, new.shape)
            known = self._classes.get(key)
            self._classes[key] = (
                replace(known, count=known.count + new.count, bytes=known.bytes + new.bytes) if known else new
            )
        if len(self._classes) > MAX_CLASSES:
            raise self._listing.refused(
                Reason.UNSUPPORTED_ARCHITECTURE,
                f"its tensors have more than {MAX_CLASSES:,} different names and shapes (layer and expert numbers "
                "aside); no architecture served here looks like that. Name another checkpoint.",
            )

    def classes(self) -> tuple[TensorClass, ...]:
        return tuple(sorted(self._classes.values(), key=lambda one: (one.pattern, one.dtype, one.shape)))
