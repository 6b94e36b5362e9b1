"""What splits the traffic: a challenger's percentage, read and set, all or nothing. See docs/rollout.md."""

from serm.rollout.traffic.backend import Conflict, NotReady, State, Traffic, connect

__all__ = ["Conflict", "NotReady", "State", "Traffic", "connect"]
