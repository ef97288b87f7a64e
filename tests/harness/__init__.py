"""What the lanes, the benchmarks and the demo share: the operator as a process, and builders that read like a sentence."""

from tests.harness.api_server import ApiServer, RefusedByServerError
from tests.harness.installation import Installation
from tests.harness.models import QuantizedModelBuilder, make_model
from tests.harness.operator_process import OperatorProcess
from tests.harness.waiting import wait_for

__all__ = [
    "ApiServer",
    "Installation",
    "OperatorProcess",
    "QuantizedModelBuilder",
    "RefusedByServerError",
    "make_model",
    "wait_for",
]
