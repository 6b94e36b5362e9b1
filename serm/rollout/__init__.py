"""The canary: who sees it, and what its numbers decide."""

from serm.rollout.split import Variant, variant

__all__ = ["Variant", "variant"]
