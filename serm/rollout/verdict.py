"""A rollout's verdict: what its next tick would decide, for tools that ramp by their own steps and only ask.

Argo Rollouts' AnalysisTemplate and Flagger's webhooks ask it over HTTP (docs/rollout.md has a manifest of each).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from serm.errors import UserError
from serm.local_server import LocalServer
from serm.rollout.controller import Tick
from serm.rollout.decision import ENDS, Action
from serm.rollout.record import OUTCOMES

_OUTCOMES = {outcome: action for action, outcome in OUTCOMES.items()}
_LONGEST_REQUEST = 1_000_000
ACTIONS: tuple[Action, ...] = ("advance", "hold", "promote", "roll_back", "inconclusive", "error")


@dataclass(frozen=True)
class Verdict:
    """What is to be done with the challenger."""

    action: Action
    percent: int
    """Its share of the users then."""
    reasons: tuple[str, ...]
    ended: bool
    """It was decided for good: the rollout is over."""


def verdict(tried: Tick) -> Verdict:
    """Return the verdict of a dry tick: its decision, or how the rollout ended.

    Raises:
        UserError: a change of the traffic is under way, which the next tick ends.
    """
    record, decided = tried.record, tried.decision
    if decided is not None:
        return Verdict(decided.action, decided.percent, decided.reasons, ended=False)
    if record.outcome == "running":
        raise UserError(
            f"the rollout {record.experiment!r} is between two steps; `serm rollout tick` ends what was begun."
        )
    action = _OUTCOMES[record.outcome]
    reasons = record.decisions[-1].reasons if record.decisions else ()
    return Verdict(action, ENDS[action], reasons, ended=True)


class Asked:
    """A verdict that is found at most every so many seconds, however often it is asked for."""

    def __init__(self, find: Callable[[], Verdict], every_seconds: float) -> None:
        self._find = find
        self._every = every_seconds
        self._lock = threading.Lock()
        self._known: tuple[float, Verdict] | None = None

    def __call__(self) -> Verdict:
        """Return the verdict.

        Raises:
            UserError: it cannot be found.
        """
        with self._lock:
            now = time.monotonic()
            if self._known is None or now - self._known[0] >= self._every:
                self._known = None
                self._known = (now, self._find())
            return self._known[1]


def server(ask: Callable[[], Verdict], host: str, port: int) -> LocalServer:
    """Return an HTTP server, listening; ``serve_forever`` answers.

    ``GET`` or ``POST /verdict`` answers 200 with the verdict as JSON, or 503 with ``{"error": ...}`` where there is
    none. With ``?if=ACTION`` (several are ORed) it answers 200 where the verdict is one of them and 409 where not, for
    who reads the status only. What is posted is not read. ``GET /healthz`` answers 200.

    Raises:
        UserError: nobody can listen there.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 10
        server_version = "serm"
        sys_version = ""

        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            wanted = parse_qs(asked.query, max_num_fields=20).get("if", []) if len(self.path) < 1000 else []
            if asked.path == "/healthz":
                return self._answer(200, {"status": "ok"})
            if asked.path != "/verdict":
                return self._answer(404, {"error": "ask for /verdict"})
            if unknown := [one for one in wanted if one not in ACTIONS]:
                return self._answer(400, {"error": f"if={unknown[0][:50]!r} is none of {', '.join(ACTIONS)}"})
            try:
                found = ask()
            except UserError as error:
                return self._answer(503, {"error": str(error)})
            return self._answer(409 if wanted and found.action not in wanted else 200, asdict(found))

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "0")
            if not length.isdecimal() or int(length) > _LONGEST_REQUEST:
                self.close_connection = True
                return self._answer(413, {"error": "nothing is to be sent here"})
            self.rfile.read(int(length))
            return self.do_GET()

        def _answer(self, status: int, found: dict[str, object]) -> None:
            body = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: requests are many, and their text is not ours."""

    try:
        return LocalServer((host, port), Handler)
    except (OSError, OverflowError) as error:
        raise UserError(f"{host}:{port}: cannot listen there ({error}); give another --host or --port.") from error
