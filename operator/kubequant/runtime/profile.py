"""Which profile of the planner belongs to the engine that the operator is configured with."""

from __future__ import annotations

import dataclasses

from kubequant.manifests.recipe import EngineSettings
from kubequant.planning.engines.vllm import VLLM_0_33, EngineProfile


def engine_profile(engine: EngineSettings) -> EngineProfile:
    """The newest profile known, said to be extrapolated for a version that it was not made for."""
    return dataclasses.replace(VLLM_0_33, version=engine.version, image=engine.image)
