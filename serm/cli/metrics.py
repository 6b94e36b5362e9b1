"""``serm metrics``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def metrics(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Serve /metrics on this port, until stopped; 0 takes a free one.")
    ] = 9109,
    host: Annotated[
        str, typer.Option(help="The address to listen on: this machine only; in a pod 0.0.0.0.")
    ] = "127.0.0.1",
    textfile: Annotated[
        Path | None, typer.Option(help="Write them once to this *.prom file instead, for node_exporter.")
    ] = None,
) -> None:
    """Give the last cycle's gauges to Prometheus."""
    from serm.monitoring import exporter

    if textfile:
        exporter.write(Path.cwd(), textfile)
    else:
        exporter.serve(Path.cwd(), port, host)
