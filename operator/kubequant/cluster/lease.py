"""Leader election by a coordination.k8s.io Lease.

The client library has an election of its own; it is not used because it dies of a connection error while it waits or
renews, writes local time without a zone, and never releases the Lease, so that each hand-over takes the whole duration.
Time is measured with the local monotonic clock alone, as client-go does: clocks of two machines are never compared.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from kubequant.cluster.api import ApiError, Body, KubeApi
from kubequant.cluster.kinds import LEASE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LeaseTimes:
    """Seconds. A follower takes over after `duration` without a renewal; a leader gives up after `renew_deadline`."""

    duration: int = 15
    renew_deadline: float = 10.0
    retry_period: float = 2.0


class LeaseElection:
    """`acquire()` returns once this process leads; `hold()` renews and returns when the Lease is lost."""

    def __init__(
        self, api: KubeApi, namespace: str, name: str, identity: str, clock: Callable[[], float], times: LeaseTimes
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._clock = clock
        self._times = times
        self._seen: tuple[object, object] | None = None  # (holder, renewTime) as last read
        self._seen_at = 0.0
        self._renewed_at = 0.0
        self.leads = False

    async def acquire(self) -> None:
        while not await self._attempt():  # noqa: ASYNC110 - polls the server, not this process
            await asyncio.sleep(self._times.retry_period)
        self.leads = True
        log.info("leads: holds Lease %s/%s as %s", self._namespace, self._name, self._identity)

    async def hold(self) -> None:
        """Counts from the moment before a renewal is sent: a rival may count from any moment after that."""
        while (left := self._renewed_at + self._times.renew_deadline - self._clock()) > 0:
            await asyncio.sleep(min(self._times.retry_period, left))
            await self._attempt()
        self.leads = False

    async def release(self) -> None:
        """Gives the Lease up, so that a standby takes over at once. Best effort: the duration covers a failure."""
        self.leads = False
        try:
            lease = await self._api.get(LEASE, self._namespace, self._name)
            if lease and (lease.get("spec") or {}).get("holderIdentity") == self._identity:
                lease["spec"] = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
                await self._api.replace(LEASE, lease)
        except ApiError as error:
            log.warning("could not release the Lease, a standby waits up to %d s: %s", self._times.duration, error)

    async def _attempt(self) -> bool:
        began = self._clock()
        # A leader's last attempt must not outlast the time for which it may still lead.
        left = self._renewed_at + self._times.renew_deadline - began if self.leads else self._times.renew_deadline
        try:
            async with asyncio.timeout(max(0.0, left)):
                taken = await self._acquire_or_renew()
        except (ApiError, TimeoutError) as error:
            log.warning("Lease %s/%s: %s", self._namespace, self._name, error or "timed out")
            return False
        if taken:
            self._renewed_at = began
        return taken

    async def _acquire_or_renew(self) -> bool:
        lease = await self._api.get(LEASE, self._namespace, self._name)
        if lease is None:
            await self._api.create(
                LEASE, self._written({"metadata": {"namespace": self._namespace, "name": self._name}})
            )
            return True
        if not self._may_take(lease):
            return False
        await self._api.replace(LEASE, self._written(lease))  # resourceVersion within: a rival's write makes this a 409
        return True

    def _may_take(self, lease: Body) -> bool:
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity")
        seen = (holder, spec.get("renewTime"))
        if seen != self._seen:
            self._seen, self._seen_at = seen, self._clock()
        duration = float(spec.get("leaseDurationSeconds") or self._times.duration)
        return not holder or holder == self._identity or self._clock() - self._seen_at >= duration

    def _written(self, lease: Body) -> Body:
        spec = lease.get("spec") or {}
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        same = spec.get("holderIdentity") == self._identity
        return {
            **lease,
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": self._times.duration,
                "acquireTime": spec.get("acquireTime") if same else now,
                "renewTime": now,
                "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (0 if same else 1),
            },
        }
