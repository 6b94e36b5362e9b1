"""The front door: a search team's own files become a workspace with a first champion."""

from serm.founding.given import Given, Plan, settled
from serm.founding.init import Founded, init, plan, trial

__all__ = ["Founded", "Given", "Plan", "init", "plan", "settled", "trial"]
