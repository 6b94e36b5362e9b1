"""The bridge to git and DVC: every cycle is one commit and one tag whose dvc.lock pins each byte."""

from serm.versioning.advance import advance
from serm.versioning.publish import publish
from serm.versioning.workspace import STEPS, Workspace

__all__ = ["STEPS", "Workspace", "advance", "publish"]
