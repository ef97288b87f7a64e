"""The values that travel between the rooms: frozen, plain, serialisable.

    hub.describe()    -> ModelFacts
    fleet_of(nodes)   -> Fleet
    Intent + ModelFacts + Fleet -> Plan | Refusals
    manifests.build_*(Plan, ...) -> dicts

Sizes are bytes (int), memory of a tensor-parallel rank is said as such, tokens are counts. Nothing here does I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import prod


@dataclass(frozen=True)
class TensorClass:
    """Tensors that differ only in layer and expert number.

    `pattern` has those numbers starred (`model.layers.*.self_attn.q_proj.weight`); `dtype` is the safetensors name
    (BF16, F8_E4M3, I32, ...); `shape` is that of one tensor; `count` how many there are; `bytes` their sum.
    """

    pattern: str
    dtype: str
    shape: tuple[int, ...]
    count: int
    bytes: int

    @property
    def weights(self) -> int:
        """Numbers of the matrices of this class. I32 packs eight 4-bit values (8-bit ones, which are rare, count double), U8 two."""
        parameter = self.pattern.rpartition(".")[2]
        if len(self.shape) < 2 or "scale" in parameter or "zero" in parameter:
            return 0
        return self.count * prod(self.shape) * {"I32": 8, "U8": 2}.get(self.dtype, 1)


class CacheKind(StrEnum):
    """What a layer remembers of a sequence."""

    FULL = "Full"  # key and value of every token
    LATENT = "Latent"  # MLA: one compressed vector a token, the same on every tensor-parallel rank
    SLIDING = "SlidingWindow"  # of the last `window` tokens
    CHUNKED = "ChunkedLocal"  # of the present chunk of `window` tokens
    STATE = "State"  # recurrent (Mamba, linear attention, short convolution): a fixed size a sequence


@dataclass(frozen=True)
class StateTensor:
    """A tensor of a recurrent layer's state: `units` (heads, groups) of `values_per_unit` numbers each.

    A tensor-parallel rank keeps max(1, units / ranks) units. `dtype` is Model (the model's own) or F32.
    """

    units: int
    values_per_unit: int
    dtype: str = "Model"


@dataclass(frozen=True)
class CacheLayers:
    """Layers that keep the same. A latent layer has one KV head of `key_dim` numbers and no values."""

    kind: CacheKind
    layers: int
    kv_heads: int = 0
    key_dim: int = 0  # of one head
    value_dim: int = 0
    window: int = 0  # tokens
    state: tuple[StateTensor, ...] = ()
    states: int = 2  # of a sequence, with prefix caching: the running one, the last kept, and one that prefill exports
    token_bytes: int = 0  # of one token, where fixed whatever the cache's dtype is (the indexer of DeepSeek V3.2)


@dataclass(frozen=True)
class Experts:
    """A mixture of experts. Sizes are of one expert; `shared_intermediate_size` is of all shared ones together."""

    experts: int
    per_token: int
    layers: int  # how many decoder layers have them
    intermediate_size: int
    shared_intermediate_size: int = 0


@dataclass(frozen=True)
class ModelShape:
    """Architecture facts from config.json that arithmetic needs. Counts, not bytes.

    `caches` says what each layer keeps; layers that share another one's KV cache appear in none. Left empty it is filled in for
    a decoder whose every layer keeps key and value of `num_key_value_heads` heads.
    """

    architecture: str
    model_type: str
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int  # of the dense MLP layers; 0 where every layer has experts
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool
    dtype: str  # BF16 | F16 | F32: what activations and, where stored so, weights use
    caches: tuple[CacheLayers, ...] = ()
    experts: Experts | None = None
    multimodal: bool = False
    attention_sinks: bool = False  # learned sinks (gpt-oss): fewer attention backends can run them
    alibi: bool = False  # biases by distance (BLOOM): an FP8 KV cache cannot be had with them
    vision_heads: int = 0  # attention heads of a vision tower that ranks split; 0: none, kept whole, or not known
    float16_refused: bool = False  # numerically unstable in float16: the engine refuses it (Gemma 2, Gemma 3, GLM-4)
    rope_scaling: str = ""  # as config.json says it, for messages: "yarn x 4"
    upper_bound: bool = False  # an unknown architecture: figures are bounds taken from the headers, not its layout

    def __post_init__(self) -> None:
        if not self.caches:
            full = CacheLayers(
                CacheKind.FULL, self.num_hidden_layers, self.num_key_value_heads, self.head_dim, self.head_dim
            )
            object.__setattr__(self, "caches", (full,))

    def keeps(self, *kinds: CacheKind) -> bool:
        """Whether some layer's cache is of one of these kinds."""
        return any(cache.kind in kinds for cache in self.caches)


class StoredMethod(StrEnum):
    """How the numbers of a stored checkpoint are laid out, as its config says and its headers confirm."""

    AWQ = "AWQ"
    GPTQ = "GPTQ"
    COMPRESSED_TENSORS = "CompressedTensors"
    FP8 = "FP8"
    MODELOPT = "ModelOpt"
    MXFP4 = "MXFP4"


@dataclass(frozen=True)
class StoredQuantization:
    """What a quantised checkpoint is, by its own config and headers.

    `scheme` is the API's word (W4A16, W8A16, FP8, W8A8, NVFP4, MXFP4); `group_size` -1 means one scale per output channel;
    `block` the two sides of an FP8 weight block. `kv_cache_dtype` is FP8 when the checkpoint brings key and value scales.
    """

    method: StoredMethod
    scheme: str
    bits: int
    group_size: int | None = None
    symmetric: bool = True
    act_order: bool = False
    block: tuple[int, int] | None = None
    kv_cache_dtype: str | None = None
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelFacts:
    """One repository at one commit, as its headers say: small enough for a ControllerRevision (under 4 KiB compressed)."""

    repository: str
    commit: str
    shape: ModelShape
    tensors: tuple[TensorClass, ...]
    stored: StoredQuantization | None  # None: not quantised
    download_bytes: int  # every file that a pod fetches, weights and tokenizer
    has_chat_template: bool = False
    predicted: bool = False  # nobody has made this checkpoint: its tensors are what quantising `repository` would give
    base: str = ""  # the model that a quantised repository says it was made from
    checksums: str = (
        ""  # 64 hex digits over names and digests of the files that a pod fetches; "" where the hub names none
    )
    max_new_tokens: int | None = None  # of generation_config.json: vLLM's default where a request sets no max_tokens
    notes: tuple[str, ...] = ()  # what a reader should know of the repository: its name contradicts its content, ...

    @property
    def weight_bytes(self) -> int:
        """Stored bytes of all tensors."""
        return sum(tensor.bytes for tensor in self.tensors)

    @property
    def parameters(self) -> int:
        """Weights of all matrices: packed ones are counted unpacked, scales and zero points not at all."""
        return sum(tensor.weights for tensor in self.tensors)


@dataclass(frozen=True)
class Rejected:
    """A candidate that discovery did not take. `reason` is one CamelCase word of hub.trust.Rejection, `message` for the user."""

    repository: str
    reason: str
    message: str


@dataclass(frozen=True)
class Found:
    """What discovery found for a base model at a commit: trusted checkpoints, the most trusted first, and all others with their reasons.

    `notes` say what could not be asked (a mirror without a search, say).
    """

    checkpoints: tuple[ModelFacts, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    notes: tuple[str, ...] = ()
    partial: bool = False  # some trusted candidate could not be read this time


class GpuOrigin(StrEnum):
    """Where the facts of a GPU class come from."""

    LABELS = "Labels"
    TABLE = "Table"
    DECLARED = "Declared"  # a pool of the operator's configuration that scales from zero


@dataclass(frozen=True, order=True)
class ComputeCapability:
    """A pair of integers, so that 10.0 is above 8.9."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> ComputeCapability:
        """Reads "8.9". Raises ValueError with the text when it is no such pair."""
        major, dot, minor = text.partition(".")
        if not (dot and major.isdigit() and minor.isdigit()):
            raise ValueError(f"compute capability must look like 8.9, not {text!r}")
        return cls(int(major), int(minor))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


@dataclass(frozen=True)
class Toleration:
    """As in a pod's spec; empty fields are left out there."""

    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""


@dataclass(frozen=True)
class GpuClass:
    """GPUs that are the same for planning: one product with one memory size and capability.

    `label_memory_bytes` is what the label `nvidia.com/gpu.memory` says; `memory_bytes` what CUDA will report,
    a little less (planning/gpus.py says by how much and why). `per_node` is the largest count on one node.
    Rates are dense and of one GPU, for ranking only; None where nobody has told. `price_per_hour` is the user's, of one GPU.
    """

    product: str
    label_memory_bytes: int
    memory_bytes: int
    compute_capability: ComputeCapability
    per_node: int
    nodes: int
    origin: GpuOrigin = GpuOrigin.LABELS
    nvlink: bool = True  # False only where known: a tensor-parallel rank needs less for collectives without it
    resource: str = "nvidia.com/gpu"  # what a pod asks for
    mig_profile: str = ""  # 3g.40gb: slices of a card, which no engine can span
    selector: tuple[tuple[str, str], ...] = ()  # labels of its nodes; empty: `resource`.product, as GFD labels them
    tolerations: tuple[Toleration, ...] = ()  # for taints that its nodes are known to carry
    taints: tuple[str, ...] = ()  # of every one of its nodes, as key=value:Effect: only spec.pod.tolerations gets past
    bandwidth_bytes_per_second: int | None = None
    flops_16bit: int | None = None
    flops_fp8: int | None = None
    flops_fp4: int | None = None
    ops_int8: int | None = None
    price_per_hour: float | None = None
    gpus: int = 0  # on all its nodes, and on those that a declared pool may grow by
    free: int | None = field(default=None, compare=False)  # GPUs free now, all nodes; a plan never rests on it


@dataclass(frozen=True)
class UnreadableNode:
    """A node that advertises GPUs which cannot be planned on, and why."""

    name: str
    reason: str
    shared: bool = False  # no label is missing: the GPUs are shared, cut wrongly or not offered as nvidia.com/gpu


@dataclass(frozen=True)
class Fleet:
    """The GPUs that the cluster has (cordoned and not-ready nodes too: plans rest on what exists)."""

    classes: tuple[GpuClass, ...] = ()
    unreadable: tuple[UnreadableNode, ...] = ()
    nodes: int = 0  # all nodes, with and without GPUs


class Objective(StrEnum):
    """What the planner makes best among what fits."""

    LOWEST_COST = "LowestCost"
    LOWEST_LATENCY = "LowestLatency"
    HIGHEST_THROUGHPUT = "HighestThroughput"
    HIGHEST_QUALITY = "HighestQuality"


class KvCacheDtype(StrEnum):
    """What a user may ask of the KV cache; AUTO is resolved by the planner."""

    AUTO = "Auto"
    BF16 = "BF16"
    FP8 = "FP8"


@dataclass(frozen=True)
class Intent:
    """The planning inputs with defaults filled in. None stands where the planner derives the value."""

    repository: str  # of the base model: what the user calls the model
    scheme: str = "Auto"
    context_tokens: int | None = None
    concurrent_requests: int = 16
    tokens_per_request: int | None = None
    kv_cache_dtype: KvCacheDtype = KvCacheDtype.AUTO
    served_model_name: str | None = None
    min_memory_bytes: int = 0
    min_compute_capability: ComputeCapability | None = None
    products: tuple[str, ...] = ()
    gpus_per_replica: int | None = None
    reserved_memory_bytes: int = 0  # of each GPU: a display, another process
    engine_arguments: tuple[tuple[str, str], ...] = ()
    objective: Objective = Objective.LOWEST_COST
    method: str = "Auto"  # Auto | AWQ | GPTQ | RoundToNearest: how a checkpoint that is to be made finds its numbers
    prefer_existing: bool = False  # a checkpoint that exists goes before any that would have to be made


class Evidence(StrEnum):
    """What an overhead rests on."""

    MEASURED = "Measured"
    FITTED = "Fitted"
    EXTRAPOLATED = "Extrapolated"


@dataclass(frozen=True)
class Measurement:
    """KV cache of one rank at a start-up: what was expected of it, and what the engine found, in bytes."""

    expected_kv_cache_bytes: int
    measured_kv_cache_bytes: int


@dataclass(frozen=True)
class MemoryBudget:
    """One GPU's memory, line by line, in bytes. `kv_cache_bytes` is what is left for the KV cache of this rank.

    total = what CUDA reports; usable = floor(total x gpu_memory_utilization);
    usable - weights - activation - cuda_graphs - margin = kv_cache_bytes (promised);
    context_and_nccl must fit in total - usable - reserved.
    `expected_kv_cache_bytes` is the same without the margin.
    """

    total_bytes: int
    gpu_memory_utilization: float
    usable_bytes: int
    reserved_bytes: int
    context_bytes: int  # CUDA context, cuBLAS handles and NCCL: outside `usable`
    weights_bytes: int
    activation_bytes: int
    cuda_graphs_bytes: int
    non_torch_bytes: int
    margin_bytes: int
    kv_cache_bytes: int
    expected_kv_cache_bytes: int
    kv_bytes_per_token: int  # one rank
    evidence: Evidence


@dataclass(frozen=True)
class Refusal:
    """Why one candidate (scheme x GPU class x count) was not taken. `numbers` are the figures that decided, with units in the key."""

    gpu: str  # product, or "" when the refusal is of the model itself
    gpus: int
    scheme: str
    rule: str
    message: str  # what is wrong, the number, what to do
    numbers: tuple[tuple[str, int], ...] = ()
    reason: str = ""  # one CamelCase word for programs: InsufficientMemory, NotDivisible, SlowerThanAlternative, ...
    checkpoint: str = ""  # repository of the checkpoint that was tried, where it is not the model itself


@dataclass(frozen=True)
class Bounds:
    """What no engine can beat on this placement: bytes moved over bandwidth, operations over peak rate. Not predictions."""

    decode_tokens_per_second: float  # all requests of one replica together, at the concurrency asked for
    seconds_per_token: float  # of one request among them
    prefill_tokens_per_second: float
    compute_bound: bool  # whether arithmetic, not memory, limits decoding at this concurrency


@dataclass(frozen=True)
class Alternative:
    """A plan that would also have worked, in one line."""

    gpu: str
    gpus: int
    message: str
    scheme: str = ""
    kv_cache_dtype: str = ""
    context_tokens: int = 0
    kv_cache_tokens: int = 0
    memory_bytes: int = 0  # of GPUs, taken from the cluster
    predicted: bool = False
    checkpoint: str = ""  # repository, where it is not the model itself
    decode_tokens_per_second_bound: float | None = None
    price_per_hour: float | None = None  # of one replica


@dataclass(frozen=True)
class Plan:
    """What starts the first time. `arguments` follow the model's path on vLLM's command line."""

    repository: str
    commit: str
    gpu: GpuClass
    gpus_per_replica: int
    scheme: str
    method: str  # AWQ | GPTQ | CompressedTensors | FP8 | ModelOpt | MXFP4 | None
    kernel: str
    kv_cache_dtype: str  # BF16 | F16 | FP8
    budget: MemoryBudget
    context_tokens: int
    concurrent_requests: int
    kv_cache_tokens: int  # promised, whole replica
    expected_kv_cache_tokens: int
    served_model_name: str
    weight_bytes: int  # stored, whole model: what a pod loads
    download_bytes: int
    arguments: tuple[str, ...]
    evidence: Evidence
    alternatives: tuple[Alternative, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    predicted: bool = False  # the checkpoint does not exist yet
    objective: Objective = Objective.LOWEST_COST
    kv_cache_tokens_16bit: int | None = (
        None  # promised with a 16-bit KV cache on the same placement, where FP8 was chosen
    )
    bounds: Bounds | None = None  # None where the GPU's rates are not known
    price_per_hour: float | None = None  # of one replica, where the user has given prices
    notes: tuple[str, ...] = ()  # what a user should know: a bound instead of a figure, a checkpoint that is not there


@dataclass(frozen=True)
class Refused:
    """No candidate passed. `reason` is a reason of the condition Planned; `message` is for the user."""

    reason: str
    message: str
    refusals: tuple[Refusal, ...] = field(default=())
