"""How the tool says what it is doing."""

import sys


def say(message: str) -> None:
    """Progress goes to stderr and at once: stdout belongs to the caller, and a pipe must not hold it back."""
    print(f"localcluster: {message}", file=sys.stderr, flush=True)
