"""Records of Jobs, their pods and claims; and the store that keeps pods of Jobs apart from engines."""

from __future__ import annotations

from typing import Any

import pytest

from kubequant.cluster import kinds
from kubequant.manifests.jobs import build_job, job_pod_labels
from kubequant.manifests.names import Owner
from kubequant.reconcile.job_records import JobPodRecord, any_pod_record, claim_record, job_pod_record, job_record
from kubequant.reconcile.kinds import QUANTIZED_MODEL
from kubequant.reconcile.records import PodRecord
from kubequant.reconcile.store import GONE, Store
from tests.unit.reconcile.making import KEY, NOW, model_body, pod_body, stamp

OWNER = Owner("kubequant.dev/v1alpha1", "QuantizedModel", "team-a", "m", "u-m")
BARE = {"namespace": "team-a", "name": "x", "uid": "u"}


def job_body(name: str = "m-job", uid: str = "u-job", **status: Any) -> dict[str, Any]:
    job = build_job(OWNER, name, "inspector", {"template": {"spec": {}}})
    return {**job, "metadata": {**job["metadata"], "uid": uid, "creationTimestamp": stamp(NOW)}, "status": status}


def job_pod_body(name: str = "m-job-1", job: str = "u-job", created: float = NOW, **status: Any) -> dict[str, Any]:
    metadata = {
        "namespace": "team-a", "name": name, "labels": job_pod_labels(OWNER, "inspector"),
        "creationTimestamp": stamp(created), "ownerReferences": [{"controller": True, "uid": job}],
    }  # fmt: skip
    return {"metadata": metadata, "status": status}


def filled() -> Store:
    store, body = Store(), model_body()
    body["metadata"] |= {"uid": "u-m", "generation": 1}
    store.put(QUANTIZED_MODEL, body)
    return store


@pytest.mark.parametrize("read", [job_record, job_pod_record, claim_record])
def test_nothing_is_assumed_beyond_metadata(read: Any) -> None:
    assert read({"metadata": BARE, "spec": None, "status": None}) == read({"metadata": BARE})


@pytest.mark.parametrize(
    ("conditions", "complete", "failure"),
    [
        ([], False, ""),
        ([{"type": "Complete", "status": "True"}], True, ""),
        ([{"type": "Complete", "status": "False"}], False, ""),
        ([{"type": "SuccessCriteriaMet", "status": "True"}], False, ""),
        ([{"type": "FailureTarget", "status": "True", "reason": "x"}], False, ""),
        ([{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "m"}], False, "BackoffLimitExceeded: m"),
    ],
)  # fmt: skip
def test_how_a_job_has_ended(conditions: list[dict[str, str]], complete: bool, failure: str) -> None:
    record = job_record(job_body(conditions=conditions))
    assert (record.complete, record.failure, record.has_ended) == (complete, failure, complete or bool(failure))
    assert (record.model, record.component, record.owner_uid, record.created) == ("m", "inspector", "u-m", NOW)


def test_a_pod_is_read_as_what_it_is() -> None:
    assert isinstance(any_pod_record(pod_body()), PodRecord)
    record = any_pod_record(job_pod_body(phase="Running", containerStatuses=[{"name": "c", "state": {"running": {}}}]))
    assert isinstance(record, JobPodRecord)
    assert (record.model, record.job_uid, record.phase, record.container.ended) == ("m", "u-job", "Running", False)


def test_pods_of_jobs_are_the_models_and_no_engines() -> None:
    store = filled()
    assert store.put(kinds.JOB, job_body()) == KEY
    assert store.put(kinds.POD, job_pod_body("m-job-2", created=NOW + 1)) == KEY
    assert store.put(kinds.POD, job_pod_body("m-job-1")) == KEY
    store.put(kinds.POD, pod_body("m-1"))
    snapshot = store.snapshot(KEY)
    assert snapshot is not None
    assert [pod.name for pod in snapshot.pods] == ["m-1"]
    assert [pod.name for pod in snapshot.job_pods] == ["m-job-1", "m-job-2"], "the oldest first"
    assert [job.name for job in snapshot.jobs] == ["m-job"]
    assert store.gpus_in_use("NVIDIA-L4") == 1


def test_pods_of_a_job_by_its_uid() -> None:
    store = filled()
    store.put(kinds.JOB, job_body())
    store.put(kinds.POD, job_pod_body("mine"))
    store.put(kinds.POD, job_pod_body("of-a-former-job", job="u-former"))
    job = store.job(("team-a", "m-job"))
    assert job is not None and [pod.name for pod in store.job_pods(job)] == ["mine"]
    assert store.job(("team-a", "none")) is None


def test_a_job_of_a_former_namesake_is_not_the_models() -> None:
    store, body = filled(), job_body()
    body["metadata"]["ownerReferences"][0]["uid"] = "u-before"
    store.put(kinds.JOB, body)
    snapshot = store.snapshot(KEY)
    assert snapshot is not None and snapshot.jobs == ()


def test_a_job_that_goes_wakes_its_model() -> None:
    store = filled()
    store.put(kinds.JOB, job_body())
    assert store.remove(kinds.JOB, job_body()) == KEY
    assert store.job(("team-a", "m-job")) is None and store.version(kinds.JOB, ("team-a", "m-job")) == GONE


def test_a_claim() -> None:
    record = claim_record({
        "metadata": BARE, "status": {"phase": "Bound"},
        "spec": {"accessModes": ["ReadWriteMany"], "storageClassName": "fast", "resources": {"requests": {"storage": "5Gi"}}},
    })  # fmt: skip
    assert (record.phase, record.access_modes, record.requested, record.storage_class) == (
        "Bound", ("ReadWriteMany",), "5Gi", "fast",
    )  # fmt: skip
