"""The page on which a person grades the review queue, served to this machine only."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import uvicorn
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from serm.contracts import Grade
from serm.errors import UserError
from serm.escaping import asset, policy, templates
from serm.judging.review.reviews import Graded, Item, Reviews
from serm.pairs.answers import Key

_ROOM = "serm.judging.review"
HOST = "127.0.0.1"
MAX_NOTE = 1000
"""Characters of a person's note."""
MAX_BODY = 16 << 10
"""Bytes of a request: a note of ``MAX_NOTE`` characters, each escaped as a surrogate pair, and some room."""
MAX_SITTINGS = 100
"""Pages whose order and undo are remembered; the one that was idle longest goes first."""


class _Refused(Exception):
    """A request that is not understood: the field, and what was expected."""


class _Desk:
    """One person's sitting: what lies on top, what was skipped, what can be undone."""

    def __init__(self, reviews: Reviews, by: str) -> None:
        self.reviews = reviews
        self.by = by
        self.queue: deque[Key] = deque(reviews.items)
        self.done: list[tuple[Key, Graded, Graded | None]] = []
        """What this person gave, and what stood there before."""

    def state(self, graded: Item | None = None) -> dict[str, Any]:
        """Tell the pair on top, blinded, and the progress; with ``graded``, what the judges said of that one."""
        self.reviews.refresh()
        items, known = self.reviews.items, self.reviews.graded
        while self.queue and self.queue[0] in known:  # graded here, or by somebody else meanwhile
            self.queue.popleft()
        told: dict[str, Any] = {
            "graded": len(known),
            "total": len(items),
            "undoable": bool(self.done),
            "pair": _blinded(items[self.queue[0]]) if self.queue else None,
        }
        if graded is not None:
            _, (grade, note), _ = self.done[-1]
            told["judged"] = {**_blinded(graded), "reason": graded.reason, "votes": graded.votes}
            told["judged"] |= {"grade": grade, "note": note}
        return told

    def grade(self, identity: str, grade: int, note: str) -> dict[str, Any]:
        """Keep the answer to any pair under review: what a page shows may have been graded elsewhere meanwhile."""
        item = self._item(identity)
        before = self.reviews.grade(item.key, grade, note, self.by)
        self.done.append((item.key, self.reviews.graded[item.key], before))
        return self.state(item)

    def skip(self, identity: str) -> dict[str, Any]:
        key = self._item(identity).key
        if key in self.queue:
            self.queue.remove(key)
            self.queue.append(key)
        return self.state()

    def undo(self) -> dict[str, Any]:
        if self.done:
            key, given, before = self.done[-1]
            taken_back = self.reviews.undo(key, given, before, self.by)
            self.done.pop()
            if not taken_back:
                raise UserError("somebody else has graded that pair since; their grade stands.")
            self.queue.appendleft(key)
        return self.state()

    def _item(self, identity: str) -> Item:
        for item in self.reviews.items.values():
            if item.identity == identity:
                return item
        raise UserError("that pair is not under review here; reload the page.")


def _blinded(item: Item) -> dict[str, Any]:
    """What may be seen before a grade is given: no label, no rationale, no reason."""
    query, locale, doc_id = item.key
    texts = {"query": query, "locale": locale, "doc_id": doc_id, "title": item.title, "body": item.body}
    return {"identity": item.identity, **texts, "evidence": item.evidence}


def application(reviews: Reviews) -> Starlette:
    """Return the page as an ASGI application.

    Judges' labels and rationales leave the server only with the answer to a grade. Grades are taken only from the
    page itself (a token that other sites cannot read), and only under this machine's own names.
    """
    token = secrets.token_urlsafe(32)
    page, headers = _page(token)
    desks: OrderedDict[str, _Desk] = OrderedDict()

    def desk_of(request: Request) -> _Desk:
        sitting = request.headers.get("x-serm-sitting", "")
        if sitting not in desks:
            by = hashlib.sha256(f"page\t{token}\t{sitting}".encode()).hexdigest()[:16]
            desks[sitting] = _Desk(reviews, by)
        desks.move_to_end(sitting)
        while len(desks) > MAX_SITTINGS:
            desks.popitem(last=False)
        return desks[sitting]

    async def show(_: Request) -> Response:
        return HTMLResponse(page, headers=headers)

    async def state(request: Request) -> Response:
        return _answered(lambda: desk_of(request).state())

    async def act(request: Request) -> Response:
        if not secrets.compare_digest(request.headers.get("x-serm-token", ""), token):
            return JSONResponse({"error": "reload the page."}, 403)
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                return JSONResponse({"error": f"the request is longer than {MAX_BODY >> 10} KB."}, 413)
        desk = desk_of(request)
        actions: dict[str, Callable[[], dict[str, Any]]] = {
            "/grade": lambda: desk.grade(*_grade_asked(body)),
            "/skip": lambda: desk.skip(_field(_object(body), "identity")),
            "/undo": desk.undo,
        }
        return _answered(actions[request.url.path])

    routes = [
        Route("/", show),
        Route("/state", state),
        *(Route(f"/{action}", act, methods=["POST"]) for action in ("grade", "skip", "undo")),
    ]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return Starlette(routes=routes, middleware=[hosts])


def _answered(action: Callable[[], dict[str, Any]]) -> Response:
    """What ``action`` tells, or one sentence why it could not be done; only the former means that a grade is kept."""
    try:
        return JSONResponse(action())
    except UserError as error:
        return JSONResponse({"error": str(error)}, 409)
    except _Refused as error:
        return JSONResponse({"error": str(error)}, 400)
    except OSError as error:
        return JSONResponse({"error": f"the answer could not be saved ({error.strerror or error})."}, 507)


def _object(body: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _Refused("the request is not JSON.") from error
    if not isinstance(asked, dict):
        raise _Refused("the request is not a JSON object.")
    return asked


def _grade_asked(body: bytes) -> tuple[str, int, str]:
    asked = _object(body)
    grade = asked.get("grade")
    if type(grade) is not int or grade not in [one.value for one in Grade]:  # true is an int, too
        raise _Refused(f"grade: expected 0, 1, 2 or 3, not {json.dumps(grade)[:40]}.")
    note = _field(asked, "note", "")
    if len(note) > MAX_NOTE:
        raise _Refused(f"note: expected at most {MAX_NOTE} characters, not {len(note)}.")
    return _field(asked, "identity"), grade, note


def _field(asked: dict[str, Any], name: str, default: str | None = None) -> str:
    value = asked.get(name, default)
    if not isinstance(value, str):
        raise _Refused(f"{name}: expected a text.")
    return value


def _page(token: str) -> tuple[str, dict[str, str]]:
    """Return the page and its headers; nothing of the queue is in it, its script asks for that."""
    css, js = (asset(_ROOM, f"review.{name}") for name in ("css", "js"))
    html = templates(_ROOM).get_template("review.html.jinja").render(token=token, css=Markup(css), js=Markup(js))
    allowed = policy([js], [css], connect_src="'self'", frame_ancestors="'none'")
    return html, {
        "cache-control": "no-store",
        "content-security-policy": allowed,
        "x-content-type-options": "nosniff",
    }


def listen(port: int) -> socket.socket:
    """Return a socket of this machine only; port 0 takes a free one.

    Raises:
        UserError: the port is in use, or not allowed.
    """
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise UserError(f"port {port}: {os.strerror(error.errno or 0)}; give another one with --port.") from error


def serve(reviews: Reviews, listener: socket.socket) -> None:
    """Serve the page on ``listener`` until Ctrl+C."""
    uvicorn.Server(uvicorn.Config(application(reviews), log_level="warning")).run(sockets=[listener])
