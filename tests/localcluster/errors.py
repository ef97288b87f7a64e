"""What the local cluster can fail with.

ClusterError                 anything below; the message says what is wrong and where to look
├── WaitTimeoutError         a bounded wait ran out: what it waited for, how long, which log
├── ProcessDiedError         a component ended while something waited for it
├── BuildError               a binary, a toolchain or an image could not be made
└── RealNodeUnavailableError this machine cannot run pods: what is missing and what that costs
"""


class ClusterError(Exception):
    """Base of all errors that the local cluster raises on purpose."""


class WaitTimeoutError(ClusterError):
    """A bounded wait ran out."""


class ProcessDiedError(ClusterError):
    """A component ended while something waited for it."""


class BuildError(ClusterError):
    """A binary, a toolchain or an image could not be made."""


class RealNodeUnavailableError(ClusterError):
    """This machine cannot run pods."""
