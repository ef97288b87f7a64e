"""`python -m bench`: what the operator costs, measured against a local control plane and checked-in thresholds."""
