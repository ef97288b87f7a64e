"""The kinds of our own, in the words of the room `cluster`."""

from kubequant.api.crd import GROUP, KIND, PLURAL, VERSION
from kubequant.cluster.kinds import Kind

QUANTIZED_MODEL = Kind(f"{GROUP}/{VERSION}", KIND, PLURAL)
