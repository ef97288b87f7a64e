"""Prometheus metrics of the operator. Labels are bounded: results, kinds and reasons, never names of models."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """One registry an operator, so that tests can have several in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Counter(
            "kubequant_reconciles_total", "Reconciles by result", ["result"], registry=self.registry
        )
        self.reconcile_seconds = Histogram(
            "kubequant_reconcile_duration_seconds",
            "Duration of one reconcile",
            buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 30, 120),
            registry=self.registry,
        )
        self.queue_depth = Gauge("kubequant_queue_depth", "Models that wait for a worker", registry=self.registry)
        self.objects = Gauge("kubequant_objects", "Objects known, by resource", ["resource"], registry=self.registry)
        self.models = Gauge(
            "kubequant_models", "QuantizedModels by readiness", ["ready", "reason"], registry=self.registry
        )
        self.leader = Gauge("kubequant_leader", "1 while this process holds the Lease", registry=self.registry)
        self.watch_restarts = Counter(
            "kubequant_watch_restarts_total", "Times that the watches were started again", registry=self.registry
        )
