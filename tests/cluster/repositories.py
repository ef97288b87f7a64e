"""Repositories of a test's own on the fake Hub."""

from __future__ import annotations

from tests.fakehub import FakeHub
from tests.fakehub import quantized_headers as quantized
from tests.fakehub.standard import model as fake_model
from tests.fakehub.tensors import model_tensors


def add_awq(hub: FakeHub, repository: str) -> str:
    """A repository that the operator has not seen yet."""
    tensors = quantized.awq_gemm(model_tensors("qwen2.5-7b"))
    hub.add(fake_model(repository, "qwen2.5-7b-awq", tensors, {"license": "apache-2.0"}))
    return repository
