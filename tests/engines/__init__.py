"""The real engines, vLLM and llm-compressor, on a machine without a GPU: environments, models, checks."""
