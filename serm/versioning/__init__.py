"""The bridge to git and DVC: every cycle is one commit and one tag whose dvc.lock pins each byte."""

from serm.versioning.advance import advance
from serm.versioning.publish import publish, record
from serm.versioning.workspace import STEPS, WATCH, Workspace

__all__ = ["STEPS", "WATCH", "Workspace", "advance", "publish", "record"]
