"""The arithmetic of the benchmark: counts, percentiles and verdicts, from requests as the audit log has them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from bench.figures import Figure, counted_writes, first_seen, judge, load_thresholds, percentile, seconds_between
from tests.localcluster.audit import AuditKey

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Line:
    key: AuditKey
    name: str = "m"
    namespace: str = "n"
    code: int = 200
    received: datetime = START


def line(verb: str, resource: str, subresource: str = "", **fields: object) -> Line:
    return Line(AuditKey("operator", verb, resource, subresource), **fields)  # type: ignore[arg-type]


def test_reads_events_and_the_lease_are_no_writes() -> None:
    lines = [
        line("patch", "deployments"),
        line("patch", "quantizedmodels", "status"),
        line("patch", "quantizedmodels", "status"),
        line("get", "deployments"),
        line("create", "events"),
        line("update", "leases"),
    ]
    assert counted_writes(lines) == {"patch deployments": 1, "patch quantizedmodels/status": 2}


def test_a_refused_write_is_a_write_but_no_deployment() -> None:
    refused = line("patch", "deployments", code=409)
    assert counted_writes([refused]).total() == 1
    assert first_seen([refused], "patch", "deployments", "n") == {}


def test_the_first_request_of_each_name_in_the_namespace_counts() -> None:
    later = START + timedelta(seconds=2)
    lines = [
        line("patch", "deployments", received=later),
        line("patch", "deployments"),
        line("patch", "deployments", "status", name="other"),
        line("patch", "deployments", name="elsewhere", namespace="o"),
    ]
    assert first_seen(lines, "patch", "deployments", "n") == {"m": START}


def test_seconds_between_refuses_to_leave_out_models_without_a_deployment() -> None:
    end = {"a": START + timedelta(seconds=3)}
    assert seconds_between({"a": START}, end) == [3.0]
    with pytest.raises(ValueError, match="1 of 2 models have no Deployment: b"):
        seconds_between({"a": START, "b": START}, end)
    with pytest.raises(ValueError, match="0 of 0"):
        seconds_between({}, end)


@pytest.mark.parametrize(("percent", "expected"), [(50, 100), (99, 198), (100, 200), (0, 1)])
def test_percentiles_are_measured_values(percent: float, expected: float) -> None:
    assert percentile([float(n) for n in range(200, 0, -1)], percent) == expected


def test_a_threshold_is_met_up_to_its_very_value() -> None:
    figures = [Figure("writes", "a", 8), Figure("writes", "b", 9), Figure("unbounded", "c", 1e9)]
    assert [verdict.is_met for verdict in judge(figures, {"writes": 8})] == [True, False, True]


def test_the_thresholds_are_those_that_were_promised() -> None:
    thresholds = load_thresholds()
    assert thresholds["writes-of-one-model"] == 8
    assert thresholds["create-to-deployment-ratio"] == 3
    assert thresholds["memory-peak"] == 150
    assert all(thresholds[name] == 0 for name in thresholds if name.endswith(("-idle", "-restart")))
