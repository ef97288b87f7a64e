"""Coverage-guided fuzzing of what reads strangers' bytes. `python -m tests.fuzz header --seconds 60`; corpus/ is replayed by the unit tests.

A target takes any bytes, and raises only what is a fault: an exception that its code does not promise, or a promise that is broken.
"""
