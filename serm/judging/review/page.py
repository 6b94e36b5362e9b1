"""The page on which a person grades the review queue, served to this machine only."""

from __future__ import annotations

import json
import secrets
from collections import deque
from importlib.resources import files
from typing import Any

import uvicorn
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from serm.errors import UserError
from serm.judging.review.reviews import Item, Key, Reviews

HOST = "127.0.0.1"
MAX_NOTE = 1000
"""Characters of a person's note."""


class _Desk:
    """One person's sitting: what lies on top, what was skipped, what can be undone."""

    def __init__(self, reviews: Reviews) -> None:
        self.reviews = reviews
        self.queue: deque[Key] = deque(item.key for item in reviews.left)
        self.done: list[Key] = []

    def state(self, graded: Item | None = None) -> dict[str, Any]:
        """Tell the pair on top, blinded, and the progress; with ``graded``, what the judges said of that one."""
        items = self.reviews.items
        told: dict[str, Any] = {
            "graded": len(self.reviews.graded),
            "total": len(items),
            "undoable": bool(self.done),
            "pair": _blinded(items[self.queue[0]]) if self.queue else None,
        }
        if graded is not None:
            grade, note = self.reviews.graded[graded.key]
            told["judged"] = {**_blinded(graded), "reason": graded.reason, "votes": graded.votes}
            told["judged"] |= {"grade": grade, "note": note}
        return told

    def grade(self, identity: str, grade: int, note: str) -> dict[str, Any]:
        item = self._top(identity)
        self.reviews.grade(item.key, grade, note[:MAX_NOTE])
        self.done.append(self.queue.popleft())
        return self.state(item)

    def skip(self, identity: str) -> dict[str, Any]:
        self._top(identity)
        self.queue.rotate(-1)
        return self.state()

    def undo(self) -> dict[str, Any]:
        if self.done:
            key = self.done.pop()
            self.reviews.undo(key)
            self.queue.appendleft(key)
        return self.state()

    def _top(self, identity: str) -> Item:
        if not self.queue or self.reviews.items[self.queue[0]].identity != identity:
            raise UserError("another pair is on top; reload the page.")
        return self.reviews.items[self.queue[0]]


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
    desk, token = _Desk(reviews), secrets.token_urlsafe(32)
    page = _page(token)

    async def show(_: Request) -> Response:
        return HTMLResponse(page, headers=_HEADERS)

    async def state(_: Request) -> Response:
        return JSONResponse(desk.state())

    async def act(request: Request) -> Response:
        if not secrets.compare_digest(request.headers.get("x-serm-token", ""), token):
            return JSONResponse({"error": "reload the page."}, 403)
        try:
            asked = json.loads(await request.body())
            action = request.path_params["action"]
            if action == "grade":
                told = desk.grade(str(asked["identity"]), int(asked["grade"]), str(asked.get("note", "")))
            elif action == "skip":
                told = desk.skip(str(asked["identity"]))
            else:
                told = desk.undo()
        except UserError as error:
            return JSONResponse({"error": str(error)}, 409)
        except (ValueError, KeyError, TypeError) as error:
            return JSONResponse({"error": f"not understood: {error}"}, 400)
        return JSONResponse(told)

    routes = [
        Route("/", show),
        Route("/state", state),
        Route("/{action:str}", act, methods=["POST"]),
    ]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return Starlette(routes=routes, middleware=[hosts])


_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline';"
    " script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}


def _page(token: str) -> str:
    environment = Environment(loader=PackageLoader("serm.judging.review", "."), undefined=StrictUndefined)
    here = files("serm.judging.review")
    parts = {name: (here / f"review.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    return environment.get_template("review.html.jinja").render(token=token, **parts)


def serve(reviews: Reviews, port: int) -> None:
    """Serve the page to this machine until Ctrl+C."""
    uvicorn.run(application(reviews), host=HOST, port=port, log_level="warning")
