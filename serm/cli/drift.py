"""``serm drift``."""

from __future__ import annotations

from serm.cli.options import CYCLE, PARAMS, REFERENCE, Json, Out, Params, Reference, Validated, show


def drift(
    reference: Reference = REFERENCE,
    validated: Validated = CYCLE / "validate",
    out: Out = CYCLE / "drift",
    params: Params = PARAMS,
    json: Json = False,
) -> None:
    """Say what changed since the reference window, and whether that is worth a cycle."""
    from serm import drift, settings

    figures = drift.detect(reference, validated, out, settings.load(params))
    show("drift", figures, json)
