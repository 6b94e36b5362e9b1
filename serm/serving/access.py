"""The access log: a line of JSON for each request, with the words of no searcher unless they are asked for."""

from __future__ import annotations

import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from serm.serving.protocols.request import Answered

_LOG = logging.getLogger(__name__)
_LONGEST = 200
"""Characters of a client's own words in a line, and of its queries so many."""


class AccessLog:
    """Writes a line a request, to standard output."""

    def __init__(self, wanted: Literal["none", "requests", "queries"]) -> None:
        self._wanted = wanted
        if wanted != "none" and not _LOG.handlers:
            handler = logging.StreamHandler(sys.stdout)
            handler.setFormatter(logging.Formatter("%(message)s"))
            _LOG.addHandler(handler)
            _LOG.setLevel(logging.INFO)
            _LOG.propagate = False

    def write(
        self, method: str, path: str, status: int, start: float, answered: Answered | None, request_id: str = ""
    ) -> None:
        """Write what was asked, ``start`` by ``perf_counter``, and answered: ``status``, 0 for no answer."""
        if self._wanted == "none":
            return
        line: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "method": method[:_LONGEST],
            "path": path[:_LONGEST],
            "status": status,
            "ms": round(1000 * (time.perf_counter() - start), 1),
        }
        if request_id:
            line["request_id"] = request_id[:_LONGEST]
        if answered is not None:
            scored, request = answered.scored, answered.request
            line |= {"model": answered.name, "model_version": answered.version, "pairs": len(request.queries)}
            line |= {"tokens": scored.tokens, "truncated": len(scored.cut)}
            line |= {f"{stage}_ms": round(1000 * took, 1) for stage, took in scored.seconds.items() if stage != "total"}
            if self._wanted == "queries":
                distinct = list(dict.fromkeys(request.queries))
                line["queries"] = [query[:_LONGEST] for query in distinct[:_LONGEST]]
        _LOG.info(orjson.dumps(line).decode())
