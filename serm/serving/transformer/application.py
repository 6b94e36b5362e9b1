"""The transformer's HTTP application: a client's query and documents in, their ranking out, and a record in the log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from prometheus_client import Counter, Histogram
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serm.errors import UserError
from serm.rollout.assignment import Group, serves
from serm.rollout.split import Variant
from serm.serving.answering import Answering, as_json, metrics_page
from serm.serving.refusals import Late, Unavailable
from serm.serving.served import deadline
from serm.serving.transformer import experiment
from serm.serving.transformer.experiment import Ramp
from serm.serving.transformer.predictors import Predictor, Scored
from serm.serving.transformer.querylog import QueryLog
from serm.serving.transformer.request import RankRequest, read
from serm.serving.transformer.store import DocumentStore
from serm.settings.secret import hashed
from serm.settings.serving import TransformerSettings

_LOG = logging.getLogger(__name__)
_RANKED = Counter("serm_ranked_requests", "Queries ranked", ["variant"])
_FELL_BACK = Counter(
    "serm_ranked_by_champion_instead", "Queries ranked by the champion, for the challenger gave no scores"
)
_MISSING = Counter("serm_ranked_unknown_documents", "Documents without a text, which stand last")
_SECONDS = Histogram(
    "serm_ranked_seconds",
    "From a query's arrival to its ranking",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)


class Transformer(Answering):
    """Ranks by the variant of the user, and logs what it served."""

    def __init__(
        self,
        predictors: Mapping[Variant, Predictor],
        log: QueryLog,
        key: bytes,
        settings: TransformerSettings,
        documents: Path | None = None,
        ramp: Path | None = None,
    ) -> None:
        """Rank with ``predictors``, at least the champion's.

        Args:
            predictors: a predictor a variant.
            log: takes a record of each ranking.
            key: keys the users' hashes, by which they are assigned, as ingest keys those of the log.
            settings: what is taken.
            documents: the document store; without one, requests bring their texts.
            ramp: the experiment's file; without one, the champion ranks for all.

        Raises:
            UserError: a file is not what it should be, or the experiment needs a challenger and there is none.
        """
        self._predictors, self._query_log, self._key, self._settings = predictors, log, key, settings
        self._documents, self._ramp_file = documents, ramp
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._looking = ThreadPoolExecutor(1, thread_name_prefix="documents")
        self._ramp = self._read_ramp()
        self._store = None if documents is None else DocumentStore(documents)
        routes = (
            Route("/", self._live),
            Route("/metrics", metrics_page),
            Route("/rank", self._rank, methods=["POST"]),
            Route("/v1/models/{name}", self._ready),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
        )
        super().__init__(routes, settings.max_body_mb, settings.access_log)

    async def reload(self) -> None:
        """Read the experiment and the document store again; what is no good leaves the old; the log says why."""
        try:
            self._ramp = self._read_ramp()
        except UserError as error:
            _LOG.error("The experiment stays as it was: %s", error)
        else:
            _LOG.info("Experiment: %s", self._ramp)
        if self._documents is not None and self._store is not None:
            try:
                before, self._store = self._store, DocumentStore(self._documents)
            except UserError as error:
                _LOG.error("The documents stay as they were: %s", error)
            else:
                self._looking.submit(before.close)

    def _read_ramp(self) -> Ramp | None:
        if self._ramp_file is None:
            return None
        ramp = experiment.read(self._ramp_file)
        if ramp.percent and "challenger" not in self._predictors:
            raise UserError(f"{self._ramp_file}: its challenger has {ramp.percent:g} %, and --challenger names none.")
        return ramp

    async def _live(self, request: Request) -> Response:
        return as_json({"live": True})

    async def _ready(self, request: Request) -> Response:
        """Ready is who takes requests and whose champion does."""
        ready = not self.draining and await self._predictors["champion"].is_ready()
        return as_json({"ready": ready}, 200 if ready else 503)

    async def _rank(self, request: Request) -> Response:
        return await self.answer(request, lambda body: self._ranked(body, dict(request.headers)))

    async def _ranked(self, body: bytes, headers: Mapping[str, str]) -> Response:
        start = time.perf_counter()
        loop = asyncio.get_running_loop()
        asked = await loop.run_in_executor(self._reading, read, body, self._settings)
        texts = await self._texts(asked)
        known = [row for row, text in enumerate(texts) if text is not None]
        group = self._ramp.group(hashed(asked.client_id, self._key)) if self._ramp else None
        end = start + min(deadline(headers), self._settings.deadline_seconds)
        scored, variant = await self._score(asked.query, [texts[row] or "" for row in known], group, end, headers)
        scores: list[float | None] = [None] * len(texts)
        for row, score in zip(known, scored.scores, strict=True):
            scores[row] = score
        # Documents without a text stand behind the others, in the order in which they came.
        falling = np.argsort([np.inf if score is None else -score for score in scores], kind="stable")
        rows: list[int] = falling.tolist()[: asked.top_n]
        record = _record(asked, rows, scores, scored.version, variant, group, self._ramp)
        logged = self._query_log.add(record)
        _RANKED.labels(variant).inc()
        _MISSING.inc(len(texts) - len(known))
        _SECONDS.observe(time.perf_counter() - start)
        return as_json(
            {
                "query_id": asked.query_id,
                "variant": variant,
                "model_version": scored.version,
                "results": [{"id": asked.ids[row], "index": row, "score": scores[row]} for row in rows],
                "unknown": [asked.ids[row] for row, text in enumerate(texts) if text is None],
                "logged": logged,
            }
        )

    async def _texts(self, asked: RankRequest) -> list[str | None]:
        """Return the documents' texts, from the store where the request does not bring them; None: unknown."""
        wanted = [one for one, text in zip(asked.ids, asked.texts, strict=True) if text is None]
        found: Mapping[str, str] = {}
        if wanted and self._store is not None:
            found = await asyncio.get_running_loop().run_in_executor(self._looking, self._store.texts, wanted)
        return [found.get(one) if text is None else text for one, text in zip(asked.ids, asked.texts, strict=True)]

    async def _score(
        self, query: str, documents: Sequence[str], group: Group | None, end: float, headers: Mapping[str, str]
    ) -> tuple[Scored, Variant]:
        """Return the scores and who gave them: the group's variant, or the champion where the challenger fails."""
        variant: Variant = "champion" if group is None else serves(group)
        if not documents:
            return Scored((), ""), variant
        if variant == "challenger" and "challenger" in self._predictors:
            try:
                return await self._asked("challenger", query, documents, end, headers), "challenger"
            except Unavailable as error:
                _LOG.error("The champion answers, for the challenger does not: %s", error)
                _FELL_BACK.inc()
        return await self._asked("champion", query, documents, end, headers), "champion"

    async def _asked(
        self, variant: Variant, query: str, documents: Sequence[str], end: float, headers: Mapping[str, str]
    ) -> Scored:
        left = end - time.perf_counter()
        if left <= 0:
            raise Late
        # What the challenger is given leaves the champion as much, should it fail.
        seconds = left / 2 if variant == "challenger" else left
        return await self._predictors[variant].score(query, documents, seconds, headers)


def _record(
    asked: RankRequest,
    rows: Sequence[int],
    scores: Sequence[float | None],
    version: str,
    variant: Variant,
    group: Group | None,
    ramp: Ramp | None,
) -> dict[str, Any]:
    """Return a UBI query with what was returned, which ingest joins with the events of its ``query_id``."""
    served: dict[str, Any] = {"variant": variant, "model_version": version, "scores": [scores[row] for row in rows]}
    if ramp is not None:
        served |= {"experiment": ramp.name, "group": group}
    record: dict[str, Any] = {
        "application": "serm",
        "query_id": asked.query_id,
        "client_id": asked.client_id,
        "user_query": asked.query,
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "query_attributes": {"serm": served},
        "query_response_hit_ids": [asked.ids[row] for row in rows],
    }
    if asked.session_id is not None:
        record["session_id"] = asked.session_id
    if asked.locale is not None:
        record["query_attributes"]["locale"] = asked.locale
    if asked.start:
        record["query"] = orjson.dumps({"from": asked.start}).decode()
    return record
