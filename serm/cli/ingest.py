"""``serm ingest``."""

from __future__ import annotations

from pathlib import Path

from serm.cli.options import Json, Log, Out, Params, show
from serm.workspace.layout import CYCLE, PARAMS


def ingest(
    log: Log = Path("log"),
    out: Out = CYCLE / "ingest",
    params: Params = PARAMS,
    json: Json = False,
) -> None:
    """Cut one window of the stream out of the query log."""
    from serm import settings, stream

    figures = stream.ingest(log, out, settings.load(params))
    show("ingest", figures, json)
