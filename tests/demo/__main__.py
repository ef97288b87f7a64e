"""`make demo`, `make up`, `make down`: from `kubectl apply` to an answer, for a reader."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import yaml

from tests.demo.environment import ROOT, Environment, blockers, bring_up, take_down
from tests.harness.chat import chat, service_url
from tests.localcluster.errors import ClusterError

READY_SECONDS = 300
PROMPT = "What is a list in Python?"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    parser.add_argument("command", choices=["run", "up", "down"])
    command = parser.parse_args().command
    if command == "down":
        take_down()
        print("all ended")
        return 0
    began = time.monotonic()
    reasons = blockers()
    if reasons:
        print("Pods cannot run on this machine, so KWOK plays them: you see the plan and the rollout, and no answer.")
        print("\n".join(f"  - {reason}" for reason in reasons), flush=True)
    try:
        environment = bring_up(real=not reasons)
        model = _show(environment) if command == "run" else ""
    except (ClusterError, TimeoutError, RuntimeError) as error:
        print(f"the demo failed: {error}\nmake down ends what still runs", file=sys.stderr)
        return 1
    _next_steps(environment, model)
    print(f"\nThis took {time.monotonic() - began:.0f} s.")
    return 0


def _show(environment: Environment) -> str:
    """Applies the example and follows it. Returns the name of its model."""
    installation = environment.installation
    example = ROOT / "examples" / ("tiny-llama.yaml" if environment.real else "qwen2.5-7b-awq.yaml")
    body = yaml.safe_load(example.read_text())
    print(f"\n$ kubectl apply -f examples/{example.name}\n{example.read_text()}", flush=True)
    installation.cluster.kubectl("apply", "-f", str(example))
    name = body["metadata"]["name"]
    _follow(environment, name)
    if environment.real:
        _ask(environment, name, body["spec"]["model"]["repository"])
    print(f"\n$ kubectl get qm -o wide\n{installation.cluster.kubectl('get', 'qm', '-o', 'wide')}")
    return str(name)


def _follow(environment: Environment, name: str) -> None:
    """Prints each condition when it changes, until Ready. Raises TimeoutError, RuntimeError."""
    began, said = time.monotonic(), dict[str, str]()
    while time.monotonic() - began < READY_SECONDS:
        conditions = _conditions(environment, name)
        for kind, condition in conditions.items():
            line = f"{kind}={condition['status']} {condition['reason']}: {condition['message']}"
            if said.get(kind) != line and condition["message"] and condition["status"] != "Unknown":
                said[kind] = line
                print(f"  {time.monotonic() - began:5.1f} s  {line}", flush=True)
        if conditions.get("Ready", {}).get("status") == "True":
            return
        if conditions.get("Stalled", {}).get("status") == "True":
            raise RuntimeError(conditions["Stalled"]["message"])
        time.sleep(0.5)
    raise TimeoutError(f"{name} was not Ready after {READY_SECONDS} s: {conditions.get('Ready')}")


def _ask(environment: Environment, name: str, model: str) -> None:
    url = service_url(environment.installation, name, "default")
    print(f"\n$ curl {url}/v1/chat/completions   # prompt: {PROMPT}")
    answer = chat(url, model, PROMPT, max_tokens=24)
    print(f"  {model} answers: {answer['choices'][0]['message']['content']!r}")
    print("  (It is a model of 3 million weights, trained for seconds: that it answers is the point, not what.)")
    began = time.monotonic()
    while time.monotonic() - began < 30:
        within = _conditions(environment, name).get("WithinPlan", {})
        if within.get("status") == "True":
            print(f"  WithinPlan: {within['message']}")
            return
        time.sleep(0.5)


def _conditions(environment: Environment, name: str) -> dict[str, dict[str, Any]]:
    model = environment.installation.get("qm", name) or {}
    return {condition["type"]: condition for condition in (model.get("status") or {}).get("conditions", [])}


def _next_steps(environment: Environment, model: str) -> None:
    cluster = environment.installation.cluster
    example = "tiny-llama" if environment.real else "qwen2.5-7b-awq"
    apply = f"kubectl apply -f examples/{example}.yaml     # what `make demo` does"
    scale = f"kubectl scale qm {model} --replicas=2         # no new revision, the first pod stays"
    print(f"""
The cluster, the Hub and the operator go on running. Try next:

  export KUBECONFIG={cluster.kubeconfig}
  export PATH={cluster.programs}:$PATH
  {scale if model else apply}
  kubectl describe qm                              # conditions, the budget in bytes, events
  kubectl apply -f examples/llama-3.1-70b-plan.yaml && kubectl describe qm llama-3-1-70b   # a refusal, with its number
  make down                                        # ends all of it""")


if __name__ == "__main__":
    sys.exit(main())
