"""``serm report``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from serm.layout import REPORT

Out = Annotated[Path, typer.Option(help="The directory of the HTML pages.")]
Serve = Annotated[bool, typer.Option("--serve", help="Show it in a browser, and what runs meanwhile, until Ctrl+C.")]
Port = Annotated[int, typer.Option(help="Of --serve, on this machine only; 0 takes a free one.", min=0, max=65535)]


def report(out: Out = REPORT, serve: Serve = False, port: Port = 8411) -> None:
    """Write the HTML report over all published cycles and print its path; or show it with --serve."""
    from serm import report as pages

    if not serve:
        print(pages.build(Path.cwd(), out))
        return
    with pages.listen(Path.cwd(), out.resolve(), port) as server, contextlib.suppress(KeyboardInterrupt):
        address = "http://{}:{}".format(*server.server_address[:2])
        print(f"The report: {address} (what runs: {address}/now; Ctrl+C ends)", flush=True)
        server.serve_forever()
