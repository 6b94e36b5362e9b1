"""What a Kubernetes cluster has for SERM and what it lacks, read only."""

from serm.cluster.api import Api, connect
from serm.cluster.doctor import Check, examine

__all__ = ["Api", "Check", "connect", "examine"]
