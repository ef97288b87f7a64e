"""A Hugging Face Hub of our own: the protocol that the unmodified clients speak, without a network."""

from tests.fakehub.catalogue import EVERYTHING
from tests.fakehub.faults import Fault, rate_limited
from tests.fakehub.repository import Repository
from tests.fakehub.server import FakeHub

__all__ = ["EVERYTHING", "FakeHub", "Fault", "Repository", "rate_limited"]
