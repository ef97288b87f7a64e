"""What the API server refuses for good (a webhook, a quota, a policy) as a problem that status can show."""

from __future__ import annotations

from kubequant.api.conditions import Reason
from kubequant.cluster.api import ApiError
from kubequant.errors import Waiting

RETRY_SECONDS = 60.0  # no event tells when the policy changes


def as_problem(error: ApiError) -> Waiting:
    """Raises the error again where the same request may succeed by itself: the queue answers that with back-off."""
    if error.is_passing or error.is_conflict or error.is_not_found:
        raise error
    message = f"the API server refuses an object of this model: {error.message.rstrip('.')}. Mend what it names."
    return Waiting(Reason.API_ERROR, message, RETRY_SECONDS)
