"""Bad specs are refused by the API server itself, with a sentence that says what is wrong and what is right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kubequant.api.spec import KvCacheDtypeName, Mode, QuantizedModelSpec, Scheme
from kubequant.reconcile.inputs import intent_of
from tests.harness import Installation, RefusedByServerError, make_model

REPOSITORY = {"repository": "Qwen/Qwen2.5-7B-Instruct-AWQ"}
LABELS_ARE_OURS = "must not set kubequant.dev/ or app.kubernetes.io/ keys: KubeQuant sets those itself"
OBJECT_NAME = "must be the name of a Kubernetes object: lower-case letters, digits, `-` and `.`"
LABEL_VALUE = "a label value is at most 63 letters, digits, `-`, `_` and `.`"


def spec(**parts: Any) -> dict[str, Any]:
    return {"model": REPOSITORY, **parts}


def model(**fields: Any) -> dict[str, Any]:
    return {"model": {**REPOSITORY, **fields}}


def serving(**fields: Any) -> dict[str, Any]:
    return spec(serving=fields)


def gpu(**fields: Any) -> dict[str, Any]:
    return spec(gpu=fields)


def pod(**fields: Any) -> dict[str, Any]:
    return spec(pod=fields)


def tolerating(**fields: Any) -> dict[str, Any]:
    return pod(tolerations=[fields])


BAD: Mapping[str, tuple[dict[str, Any], str]] = {
    # model
    "no model": ({}, "spec.model: Required value"),
    "a model without repository": ({"model": {}}, "exactly one of `repository` and `persistentVolumeClaim` must be given"),
    "a model from two places": (
        model(repository="Qwen/Qwen2.5-7B", persistentVolumeClaim={"claimName": "models"}),
        "exactly one of `repository` and `persistentVolumeClaim` must be given",
    ),
    "a revision of a volume": (
        {"model": {"persistentVolumeClaim": {"claimName": "models"}, "revision": "main"}},
        "`revision` belongs to a `repository`",
    ),
    "a token for a volume": (
        {"model": {"persistentVolumeClaim": {"claimName": "models"}, "tokenSecretRef": {"name": "hf", "key": "token"}}},
        "`tokenSecretRef` belongs to a `repository`",
    ),
    "a way out of the volume": (
        {"model": {"persistentVolumeClaim": {"claimName": "models", "path": "../other"}}},
        "`path` must be a relative path within the volume",
    ),
    "an absolute path in a volume": (
        {"model": {"persistentVolumeClaim": {"claimName": "models", "path": "/etc"}}},
        "`path` must be a relative path within the volume",
    ),
    "a repository without organisation": (model(repository="gpt2"), "must be written organisation/name, as in Qwen/"),
    "the URL of a repository": (
        model(repository="https://huggingface.co/Qwen/Qwen2.5-7B"),
        "must be written organisation/name",
    ),
    "an empty repository": (model(repository=""), "spec.model.repository"),
    "a repository that climbs": (model(repository="Qwen/.."), "must be written organisation/name"),
    "two dots in a repository": (model(repository="Qwen/a..b"), "must not contain `..` or `--`"),
    "two dashes in a repository": (model(repository="Qwen/a--b"), "must not contain `..` or `--`"),
    "a repository with a space": (model(repository="Qwen/a b"), "must be written organisation/name"),
    "a repository that is too long": (model(repository="a/" + "b" * 200), "may not be more than 193"),
    "a repository that is a number": (model(repository=7), "must be of type string"),
    "a revision with a space": (model(revision="my branch"), "`revision` must be a branch, a tag or a commit"),
    "a revision that climbs": (model(revision="a/../b"), "`revision` must be a branch, a tag or a commit"),
    "a revision that is an option": (model(revision="--force"), "`revision` must be a branch, a tag or a commit"),
    "a token that is no reference": (model(tokenSecretRef="hf_abc"), "tokenSecretRef"),
    "a token reference without key": (model(tokenSecretRef={"name": "hf"}), "tokenSecretRef.key: Required value"),
    "a token reference without name": (model(tokenSecretRef={"key": "t"}), "tokenSecretRef.name: Required value"),
    "a Secret's name in capitals": (model(tokenSecretRef={"name": "HF", "key": "t"}), OBJECT_NAME),
    "a Secret's key with a slash": (model(tokenSecretRef={"name": "hf", "key": "a/b"}), "`key` must be a key of a Secret"),
    # quantization
    "a scheme that is none": (spec(quantization={"scheme": "INT4"}), 'supported values: "Auto", "Unquantized", "W4A16"'),
    "a scheme in lower case": (spec(quantization={"scheme": "fp8"}), "supported values"),
    "a checkpoint without repository": (
        spec(quantization={"checkpoint": {}}),
        "exactly one of `repository` and `persistentVolumeClaim` must be given",
    ),
    "a discovery that is none": (spec(quantization={"discovery": "Everybody"}), 'supported values: "Trusted", "Disabled"'),
    "a checkpoint without organisation": (
        spec(quantization={"checkpoint": {"repository": "awq"}}),
        "must be written organisation/name",
    ),
    # serving
    "a context of nothing": (serving(contextTokens=0), "contextTokens in body should be greater than or equal to 128"),
    "a context below zero": (serving(contextTokens=-1), "should be greater than or equal to 128"),
    "a context as text": (serving(contextTokens="32k"), "must be of type integer"),
    "a context of eleven million": (serving(contextTokens=11_000_000), "should be less than or equal to 10485760"),
    "no concurrent requests": (serving(concurrentRequests=0), "should be greater than or equal to 1"),
    "too many concurrent requests": (serving(concurrentRequests=5000), "should be less than or equal to 4096"),
    "requests longer than the context": (
        serving(contextTokens=4096, tokensPerRequest=8192),
        "`tokensPerRequest` must not exceed `contextTokens`: a request cannot hold more than the context",
    ),
    "a KV cache in INT4": (serving(kvCacheDtype="INT4"), 'supported values: "Auto", "BF16", "FP8"'),
    "a served name with spaces": (serving(servedModelName="my model"), "`servedModelName` must be letters, digits"),
    "an engine argument with dashes": (
        serving(engineArguments={"--seed": "1"}),
        "keys of `engineArguments` are vLLM options without the dashes",
    ),
    "an engine argument in underscores": (serving(engineArguments={"max_num_seqs": "8"}), "without the dashes"),
    "an engine argument that is a number": (serving(engineArguments={"seed": 1}), "must be of type string"),
    "an engine argument that is too long": (serving(engineArguments={"seed": "1" * 300}), "may not be more than 256"),
    # gpu
    "memory without sense": (gpu(minMemory="much"), "`minMemory` must be a positive quantity such as 40Gi"),
    "memory with a wrong unit": (gpu(minMemory="40GB"), "`minMemory` must be a positive quantity such as 40Gi"),
    "memory below zero": (gpu(minMemory="-1Gi"), "`minMemory` must be a positive quantity such as 40Gi"),
    "memory as a number": (gpu(minMemory=40), "must be of type string"),
    "no reserved memory": (gpu(reservedMemory="0"), "`reservedMemory` must be a positive quantity such as 40Gi"),
    "a capability of a name": (gpu(minComputeCapability="ada"), "`minComputeCapability` must look like 8.9"),
    "a capability as a number": (gpu(minComputeCapability=8.9), "must be of type string"),
    "a capability without minor": (gpu(minComputeCapability="9"), "`minComputeCapability` must look like 8.9"),
    "no products": (gpu(products=[]), "should have at least 1 items"),
    "the same product twice": (gpu(products=["NVIDIA-L4", "NVIDIA-L4"]), "Duplicate value"),
    "a product with spaces": (gpu(products=["NVIDIA L4"]), LABEL_VALUE),
    "no GPUs": (gpu(perReplica=0), "should be greater than or equal to 1"),
    "seventeen GPUs": (gpu(perReplica=17), "should be less than or equal to 16"),
    # replicas, mode, rollout
    "replicas below zero": (spec(replicas=-1), "should be greater than or equal to 0"),
    "half a replica": (spec(replicas=1.5), "must be of type integer"),
    "two thousand replicas": (spec(replicas=2000), "should be less than or equal to 1000"),
    "a mode that is none": (spec(mode="DryRun"), 'supported values: "Serve", "Plan"'),
    "the strategy Recreate": (spec(rollout={"strategy": "Recreate"}), 'supported values: "Auto", "Surge", "InPlace"'),
    # pod
    "a label of ours": (pod(labels={"kubequant.dev/model": "x"}), LABELS_ARE_OURS),
    "a recommended label": (pod(labels={"app.kubernetes.io/name": "x"}), LABELS_ARE_OURS),
    "an annotation of ours": (pod(annotations={"kubequant.dev/x": "y"}), LABELS_ARE_OURS),
    "a label key with a space": (pod(labels={"my team": "x"}), "each key of `labels` must be a label key such as team"),
    "an annotation key with a space": (pod(annotations={"my team": "x"}), "each key of `annotations` must be a label key"),
    "a label value with a space": (pod(labels={"team": "my team"}), LABEL_VALUE),
    "a node selector that picks the GPU": (
        pod(nodeSelector={"nvidia.com/gpu.product": "NVIDIA-L4"}),
        "`nodeSelector` must not choose the GPU: say it in `gpu.products`",
    ),
    "a node selector with a bad key": (pod(nodeSelector={"a b": "c"}), "each key of `nodeSelector` must be a label key"),
    "a toleration of nothing": (tolerating(operator="Equal"), "a toleration without `key` needs operator Exists"),
    "a toleration of Exists with a value": (
        tolerating(key="a", operator="Exists", value="b"),
        "a toleration with operator Exists must not have a `value`",
    ),
    "toleration seconds for NoSchedule": (
        tolerating(key="a", operator="Exists", effect="NoSchedule", tolerationSeconds=5),
        "`tolerationSeconds` needs effect NoExecute",
    ),
    "an effect that is none": (tolerating(key="a", operator="Exists", effect="Never"), "supported values"),
    "a toleration's key with a space": (tolerating(key="a b", operator="Exists"), "`key` of a toleration must be a label key"),
    "CPU without sense": (pod(resources={"cpu": "many"}), "must be a positive quantity such as 4, 500m or 16Gi"),
    "no CPU at all": (pod(resources={"cpu": 0}), "must be a positive quantity such as 4, 500m or 16Gi"),
    "memory of the container below zero": (pod(resources={"memory": "-1Gi"}), "must be a positive quantity"),
    "a runtime class in capitals": (pod(runtimeClassName="NVIDIA"), OBJECT_NAME),
    "a priority class with a slash": (pod(priorityClassName="a/b"), OBJECT_NAME),
    "a pull secret twice": (pod(imagePullSecrets=[{"name": "a"}, {"name": "a"}]), "Duplicate value"),
    "a pull secret by its name alone": (pod(imagePullSecrets=["a"]), "must be of type object"),
    # fields that do not exist
    "a field that nobody knows": (spec(replica=1), 'unknown field "spec.replica"'),
    "a misspelt field of serving": (serving(contextLength=8192), 'unknown field "spec.serving.contextLength"'),
    "a container of the user's own": (pod(containers=[]), 'unknown field "spec.pod.containers"'),
}  # fmt: skip


@pytest.mark.parametrize(("body", "sentence"), list(BAD.values()), ids=list(BAD))
def test_a_bad_spec_is_refused_with_a_sentence(installation: Installation, body: dict[str, Any], sentence: str) -> None:
    said = installation.refused({**make_model("m").manifest(), "spec": body})
    assert sentence.lower() in said.lower()


def test_the_table_is_as_long_as_promised() -> None:
    assert len(BAD) >= 45


@dataclass(frozen=True)
class Naming:
    name: str
    sentence: str


@pytest.mark.parametrize(
    "naming",
    [
        Naming(
            "m" * 53, "the name must be at most 52 characters: the Deployment, the Service and their labels carry it"
        ),
        Naming("7b", "the name must start with a letter and hold only lower-case letters, digits and `-`"),
        Naming("qwen2.5", "the name must start with a letter and hold only lower-case letters, digits and `-`"),
        Naming("Qwen", "lowercase RFC 1123 subdomain"),
    ],
    ids=["53 characters", "a digit first", "a dot", "a capital"],
)
def test_a_bad_name_is_refused_with_a_sentence(installation: Installation, naming: Naming) -> None:
    assert naming.sentence in installation.refused(make_model(naming.name))


GOOD: Mapping[str, dict[str, Any]] = {
    "the least": spec(),
    "a commit": model(revision="0123456789abcdef0123456789abcdef01234567"),
    "a branch with a slash": model(revision="refs/pr/1"),
    "everything of serving": serving(
        servedModelName="qwen/7b:awq", contextTokens=8192, concurrentRequests=4, tokensPerRequest=8192,
        kvCacheDtype="FP8", engineArguments={"seed": "1"},
    ),
    "everything of gpu": gpu(
        minMemory="40Gi", minComputeCapability="8.9", products=["NVIDIA-L4"], perReplica=2, reservedMemory="1Gi"
    ),
    "no replicas": spec(replicas=0),
    "a toleration of everything": tolerating(operator="Exists"),
    "a toleration for five minutes": tolerating(key="a", operator="Exists", effect="NoExecute", tolerationSeconds=300),
    "quantities as numbers": pod(resources={"cpu": 4, "memory": "16Gi"}),
    "labels with a prefix": pod(labels={"example.com/team": "a", "empty": ""}, annotations={"note": "Ä long, text"}),
    "a gated checkpoint of a base": spec(
        quantization={"scheme": "FP8", "checkpoint": {"repository": "a/b", "revision": "v1.0"}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("body", list(GOOD.values()), ids=list(GOOD))
def test_a_good_spec_is_taken(installation: Installation, body: dict[str, Any]) -> None:
    taken = installation.api.create({**make_model("m" * 52).manifest(), "spec": body}, dry_run=True)
    assert taken["spec"].items() >= body.items(), "the server keeps what was written"


def test_nothing_is_immutable(installation: Installation, namespace: str) -> None:
    """Any planning input may be changed: a new revision follows."""
    installation.apply(
        {**make_model("m", namespace).manifest(), "spec": {**spec(mode="Plan"), **serving(contextTokens=4096)}}
    )
    changed = {**model(repository="a/b"), "gpu": {"perReplica": 2}, "serving": {"contextTokens": 8192}, "mode": "Plan"}
    taken = installation.patch("qm", "m", {"spec": changed}, namespace)
    assert taken["spec"]["model"]["repository"] == "a/b"
    installation.delete("qm", "m", namespace)


def test_planning_inputs_have_no_defaults(installation: Installation) -> None:
    """A default added by a newer CRD would alter the hash of the inputs, and replan running models."""
    taken = installation.api.create(make_model("m").manifest(), dry_run=True)
    assert taken["spec"] == {"model": REPOSITORY, "replicas": 1, "mode": "Serve"}


names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._]{0,20}\Z").filter(lambda name: ".." not in name)
repositories = st.tuples(names, names).map("/".join)
quantities = st.sampled_from(["40Gi", "1", "500m", "1e3", "1E3", "1E", "0.5Gi", ".5Gi", "+1Gi", "1k", "7u"])
label_values = st.from_regex(r"\A[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?\Z")
label_keys = st.from_regex(r"\A([a-z]{1,10}\.[a-z]{2,5}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?\Z")
label_maps = st.dictionaries(label_keys, label_values, max_size=3)
tolerations = st.one_of(
    st.just({"operator": "Exists"}),
    st.fixed_dictionaries({"key": label_keys}, optional={"value": label_values, "effect": st.just("NoSchedule")}),
)
GOOD_SPECS = st.fixed_dictionaries(
    {"model": st.fixed_dictionaries({"repository": repositories}, optional={"revision": names})},
    optional={
        "quantization": st.fixed_dictionaries({}, optional={"scheme": st.sampled_from([s.value for s in Scheme])}),
        "serving": st.fixed_dictionaries(
            {},
            optional={
                "contextTokens": st.integers(10_000, 10_485_760),
                "tokensPerRequest": st.integers(1, 10_000),
                "concurrentRequests": st.integers(1, 4096),
                "kvCacheDtype": st.sampled_from([dtype.value for dtype in KvCacheDtypeName]),
                "servedModelName": repositories,
                "engineArguments": st.dictionaries(st.from_regex(r"\A[a-z][a-z0-9-]{1,20}\Z"), st.text(max_size=20), max_size=3),
            },
        ),
        "gpu": st.fixed_dictionaries(
            {},
            optional={
                "minMemory": quantities,
                "reservedMemory": quantities,
                "minComputeCapability": st.sampled_from(["8.9", "10.0", "7.5"]),
                "products": st.lists(label_values, min_size=1, max_size=3, unique=True),
                "perReplica": st.integers(1, 16),
            },
        ),
        "replicas": st.integers(0, 1000),
        "pod": st.fixed_dictionaries(
            {},
            optional={
                "labels": label_maps,
                "annotations": label_maps,
                "tolerations": st.lists(tolerations, max_size=3),
                "resources": st.fixed_dictionaries({}, optional={"cpu": st.integers(1, 64), "memory": quantities}),
            },
        ),
        "mode": st.sampled_from([mode.value for mode in Mode]),
    },
)  # fmt: skip

words = st.text(st.sampled_from("aZ09-_./: "), max_size=70)
WILD_SPECS = st.fixed_dictionaries(
    {"model": st.fixed_dictionaries({"repository": words}, optional={"revision": words})},
    optional={
        "serving": st.fixed_dictionaries(
            {},
            optional={
                "contextTokens": st.integers(-1, 20_000_000),
                "tokensPerRequest": st.integers(0, 20_000),
                "kvCacheDtype": st.sampled_from(["Auto", "INT4"]),
                "servedModelName": words,
                "engineArguments": st.dictionaries(words, words, max_size=3),
            },
        ),
        "gpu": st.fixed_dictionaries(
            {},
            optional={
                "minMemory": words,
                "minComputeCapability": words,
                "products": st.lists(words, max_size=3),
                "perReplica": st.integers(-1, 20),
            },
        ),
        "replicas": st.integers(-2, 1200),
        "pod": st.fixed_dictionaries({}, optional={"labels": st.dictionaries(words, words, max_size=2)}),
    },
)
SHARED = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@settings(max_examples=60, **SHARED)  # type: ignore[arg-type]
@given(body=GOOD_SPECS)
def test_good_specs_are_taken_by_the_server_and_read_by_the_operator(
    installation: Installation, body: dict[str, Any]
) -> None:
    taken = installation.api.create({**make_model("m").manifest(), "spec": body}, dry_run=True)
    intent_of(QuantizedModelSpec.model_validate(taken["spec"]))


@settings(max_examples=100, **SHARED)  # type: ignore[arg-type]
@given(body=WILD_SPECS)
def test_what_the_server_takes_the_operator_reads(installation: Installation, body: dict[str, Any]) -> None:
    """The operator must never meet a stored spec that it cannot read, and the server answers bad ones with 422 alone."""
    try:
        taken = installation.api.create({**make_model("m").manifest(), "spec": body}, dry_run=True)
    except RefusedByServerError as error:
        assert error.status == 422, error.message
    else:
        intent_of(QuantizedModelSpec.model_validate(taken["spec"]))
