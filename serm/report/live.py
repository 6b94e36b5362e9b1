"""The report in a browser while a cycle runs: ``serm report --serve``, on this machine only.

``/`` is the report, written anew when a cycle has ended; ``/now`` says what runs, since when, and what is next. No page
has a script, and none asks another host for anything.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

from markupsafe import Markup

from serm.errors import UserError
from serm.escaping import asset, policy, templates, visible
from serm.layout import HISTORY
from serm.local_server import LocalServer
from serm.report import formats, loop, page
from serm.workspace import history
from serm.workspace.running import Running, running

HOST = "127.0.0.1"
_ROOM = "serm.report"


@dataclass(frozen=True)
class Stage:
    """A step of the cycle that runs: ``done``, ``cached``, ``runs``, ``stopped`` or ``next``."""

    name: str
    state: str
    took: str
    """How long it took, or runs already."""
    before: str
    """How long it took in the last cycle."""


def stages(now: Running, last: history.Cycle | None, at: datetime) -> list[Stage]:
    """Return the steps of the cycle that runs, in order; ``last`` is the cycle before, ``at`` the time of the look."""
    begun = {one.step: one for one in now.begun}
    ends = dict(zip(begun, [*(one.at for one in now.begun[1:]), now.ended], strict=False))
    found = []
    for name in loop.STEPS if not now.ended else [name for name in loop.STEPS if name in begun]:
        state, took = "next", ""
        if name in begun:
            end = ends[name]
            state = "cached" if begun[name].cached else "done" if end else "runs" if now.verb else "stopped"
            until = end or at
            took = "" if state in ("cached", "stopped") else formats.seconds((until - begun[name].at).total_seconds())
        before = last.get("costs", name, "seconds") if last else None
        found.append(Stage(name, state, took, "" if before is None else formats.seconds(before)))
    return found


def now_page(workspace: Path, at: datetime) -> str:
    """Return the page that says what runs in ``workspace`` at the time ``at``."""
    now, cycles = running(workspace), _cycles(workspace)
    before = next((one for one in reversed(cycles) if one.tag != now.tag), None)
    style = asset(_ROOM, "report.css")
    return (
        templates(_ROOM)
        .get_template("now.html.jinja")
        .render(
            name=workspace.resolve().name,
            policy=policy(styles=[style]),
            style=Markup(style),
            now=now,
            stages=stages(now, before, at),
            at=at.astimezone().isoformat(sep=" ", timespec="seconds"),
            has_report=bool(cycles),
        )
    )


def _cycles(workspace: Path) -> list[history.Cycle]:
    try:
        return history.read_cycles(workspace)
    except UserError:
        return []


class _Pages:
    """The report's page as it is now; it is rendered again only when history has changed."""

    def __init__(self, workspace: Path, out: Path) -> None:
        self.workspace, self.out = workspace, out
        self._of: object = None
        self._page = ""

    def report(self) -> str:
        """Return the report, or what runs where no cycle has ended yet."""
        files = sorted((self.workspace / HISTORY).glob("cycle-*/*.json"))
        found = [(path, path.stat().st_mtime_ns) for path in files]
        if not found:
            return self.now()
        if found != self._of:
            self._page, self._of = page.render(self.workspace, self.out, served=True), found
        return self._page

    def now(self) -> str:
        """Return the page of what runs."""
        return now_page(self.workspace, datetime.now(UTC))


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, pages: _Pages, *arguments: object) -> None:
        self._pages = pages
        super().__init__(*arguments, directory=str(pages.out))  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Answer with the report, with what runs, or with a file that the report links to."""
        named = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        if named not in (HOST, "localhost"):  # another site's name that leads here
            self.send_error(421)
            return
        made = {"/": self._pages.report, "/index.html": self._pages.report, "/now": self._pages.now}
        write = made.get(urlsplit(self.path).path)
        if write is None:
            super().do_GET()
            return
        try:
            body, status = write().encode(), 200
        except UserError as error:
            body, status = visible(str(error)).encode(), 500
        self.send_response(status)
        self.send_header("Content-Type", f"text/{'html' if status == 200 else 'plain'}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        """Answer nothing: only GET is understood."""
        self.send_error(405)

    def list_directory(self, path: str | os.PathLike[str]) -> None:
        """Show no directory."""
        self.send_error(404)

    def end_headers(self) -> None:
        """Send what keeps a page to itself."""
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of requests."""


def listen(workspace: Path, out: Path, port: int) -> LocalServer:
    """Return a server of this machine only, for ``serve_forever``; port 0 takes a free one.

    Raises:
        UserError: the port is in use, or not allowed.
    """
    try:
        return LocalServer((HOST, port), partial(_Handler, _Pages(workspace, out)))
    except OSError as error:
        raise UserError(f"port {port}: {os.strerror(error.errno or 0)}; give another one with --port.") from error
