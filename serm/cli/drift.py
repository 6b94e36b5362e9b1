"""``serm drift``."""

from __future__ import annotations

from serm.cli.options import Champion, Json, Out, Params, Reference, Validated, Windows, show
from serm.workspace.layout import CHAMPION, CYCLE, PARAMS, REFERENCE, WINDOWS


def drift(
    reference: Reference = REFERENCE,
    windows: Windows = WINDOWS,
    validated: Validated = CYCLE / "validate",
    champion: Champion = CHAMPION,
    out: Out = CYCLE / "drift",
    params: Params = PARAMS,
    json: Json = False,
) -> None:
    """Say what changed since the earlier windows, and whether that is worth a cycle."""
    from serm import drift, settings

    figures = drift.drift(reference, windows, validated, champion, out, settings.load(params))
    show("drift", figures, json)
