"""KubeQuant: a Kubernetes operator for quantised model serving."""
