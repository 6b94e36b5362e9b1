"""``serm validate``."""

from __future__ import annotations

from pathlib import Path

from serm.cli.options import Documents, Json, Judgments, Out, Params, Profiles, Window, show
from serm.workspace.layout import CYCLE, JUDGMENTS, PARAMS, PROFILES


def validate(
    window: Window = CYCLE / "ingest",
    documents: Documents = Path("documents"),
    judgments: Judgments = JUDGMENTS,
    profiles: Profiles = PROFILES,
    out: Out = CYCLE / "validate",
    params: Params = PARAMS,
    json: Json = False,
) -> None:
    """Check window, catalogue and judgments: bad rows go to quarantine, too many of them stop the run."""
    from serm import settings, validation

    figures = validation.validate(window, documents, judgments, profiles, out, settings.load(params))
    show("validate", figures, json)
