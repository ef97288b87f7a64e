# `make help` says what there is. Everything installs what it needs; what is slow to build is kept in the cache folder.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
LANES ?= unit cluster engine node

.PHONY: help demo test faults fuzz bench lint format crds up down clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.synced: pyproject.toml uv.lock tools/ensure-uv
	@uv=$$(tools/ensure-uv) && $$uv sync --frozen --quiet --no-managed-python && touch $@

demo: .venv/.synced ## The whole path on this machine: a QuantizedModel becomes a pod that runs vLLM and answers
	@PATH="$$(dirname $$(tools/ensure-uv)):$$PATH" $(PY) -m tests.demo run

up: .venv/.synced ## The demo's cluster, Hub and operator, without a model
	@PATH="$$(dirname $$(tools/ensure-uv)):$$PATH" $(PY) -m tests.demo up

down: .venv/.synced ## Ends everything that `make demo` or `make up` started
	@$(PY) -m tests.demo down

test: .venv/.synced ## All lanes (LANES="unit cluster" for some): unit, cluster, engine, node
	@PATH="$$(dirname $$(tools/ensure-uv)):$$PATH" tools/run-lanes $(LANES)

faults: .venv/.synced ## The long fault hunt: the operator killed at 20 seeded random points, and what else takes long
	@PATH="$$(dirname $$(tools/ensure-uv)):$$PATH" $(PY) -m pytest tests/cluster -m faults

fuzz: .venv/.synced ## Coverage-guided fuzzing of what reads strangers' bytes: 60 s a target
	@for target in header documents facts; do $(PY) -m tests.fuzz $$target --seconds 60 || exit 1; done

bench: .venv/.synced ## Measures the operator against the thresholds in bench/thresholds.yaml
	@PATH="$$(dirname $$(tools/ensure-uv)):$$PATH" $(PY) -m bench

lint: .venv/.synced ## Formatting, style, types, who may import whom, drift of generated files
	@.venv/bin/ruff format --check --quiet . || { echo "run: make format"; exit 1; }
	@.venv/bin/ruff check --quiet .
	@.venv/bin/mypy
	@.venv/bin/mypy --no-error-summary --follow-imports=silent bench
	@.venv/bin/lint-imports | tail -n 2
	@$(PY) -m kubequant crds | diff -u crds/kubequant.dev_quantizedmodels.yaml - || { echo "run: make crds"; exit 1; }
	@$$(tools/ensure-uv) lock --check --quiet || { echo "uv.lock is not of this pyproject.toml: run uv lock"; exit 1; }
	@echo "lint: all good"

format: .venv/.synced ## Formats the code
	@.venv/bin/ruff format --quiet . && .venv/bin/ruff check --fix --quiet .

crds: .venv/.synced ## Generates crds/ from the pydantic models
	@$(PY) -m kubequant crds > crds/kubequant.dev_quantizedmodels.yaml

clean: down ## Removes the environment; the cache folder stays
	@rm -rf .venv
