"""The transformer's HTTP application: a client's query and documents in, their ranking out, and a record in the log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import orjson
from prometheus_client import Counter, Histogram
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serm.errors import UserError
from serm.rollout.assignment import GROUP_HEADER, Group, serves
from serm.rollout.split import Variant
from serm.serving import openapi
from serm.serving.answering import Answering, as_json, metrics_page
from serm.serving.documents import DocumentStore, mark
from serm.serving.judgments import JudgmentStore
from serm.serving.refusals import Busy, Late, Unavailable
from serm.serving.served import deadline
from serm.serving.transformer import experiment
from serm.serving.transformer import page as pages
from serm.serving.transformer.events import Events
from serm.serving.transformer.experiment import Ramp
from serm.serving.transformer.page import Listed, Served
from serm.serving.transformer.predictors import Predictor, Scored
from serm.serving.transformer.querylog import QueryLog
from serm.serving.transformer.request import RankRequest, read
from serm.settings.secret import hashed
from serm.settings.serving import TransformerSettings

_LOG = logging.getLogger(__name__)
_RANKED = Counter("serm_ranked_requests", "Queries ranked, and by whom: champion, challenger, both", ["ranked_by"])
_FELL_BACK = Counter(
    "serm_ranked_by_champion_instead", "Queries ranked by the champion, for the challenger gave no scores"
)
_MISSING = Counter("serm_ranked_unknown_documents", "Documents without a text, which stand last")
_JUDGED = Counter("serm_ranked_judged_documents", "Documents that stand by a judgment beside the model's score")
_SECONDS = Histogram(
    "serm_ranked_seconds",
    "From a query's arrival to its ranking",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)

Store = TypeVar("Store", bound=DocumentStore | JudgmentStore | None)

LOOK_SECONDS = 5.0
"""Between two looks whether the experiment's file has changed."""


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
        events: Events | None = None,
        judgments: Path | None = None,
    ) -> None:
        """Rank with ``predictors``, at least the champion's.

        Args:
            predictors: a predictor a variant.
            log: takes a record of each ranking.
            key: keys the users' hashes, by which they are assigned, as ingest keys those of the log.
            settings: what is taken.
            documents: the document store; without one, requests bring their texts.
            ramp: the experiment's file; without one, the champion ranks for all.
            events: tells of each ranking too.
            judgments: the judgment store, whose pairs are ranked by their grades and the model's scores together.

        Raises:
            UserError: a file is not what it should be, or the experiment needs a challenger and there is none.
        """
        self._predictors, self._query_log, self._key, self._settings = predictors, log, key, settings
        self._documents, self._ramp_file, self._events = documents, ramp, events
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._looking = ThreadPoolExecutor(1, thread_name_prefix="documents")
        self._ramp = self._read_ramp()
        self._store = None if documents is None else DocumentStore(documents)
        self._judgments = judgments
        self._judged = None if judgments is None else JudgmentStore(judgments)
        routes = (
            Route("/", self._live),
            Route("/metrics", metrics_page),
            Route("/openapi.json", self._openapi),
            Route("/rank", self._rank, methods=["POST"]),
            Route("/v1/models/{name}", self._ready),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
        )
        super().__init__("serm-transformer", routes, settings.max_body_mb, settings.access_log)

    def begin(self) -> None:
        """Begin to look after the experiment's file: a ConfigMap's volume changes without a signal."""
        if self._ramp_file is not None:
            self._watching = asyncio.get_running_loop().create_task(self._watch(self._ramp_file))

    async def _watch(self, file: Path) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if mark(file) != self._ramp_mark:
                self._take_ramp()

    async def reload(self) -> None:
        """Read the experiment and the stores again; what is no good leaves the old; the log says why."""
        self._take_ramp()
        self._store = self._opened_again(DocumentStore, self._documents, self._store, "documents")
        self._judged = self._opened_again(JudgmentStore, self._judgments, self._judged, "judgments")

    def _opened_again(self, kind: Callable[[Path], Store], path: Path | None, before: Store, what: str) -> Store:
        if path is None or before is None:
            return before
        try:
            after = kind(path)
        except UserError as error:
            _LOG.error("The %s stay as they were: %s", what, error)
            return before
        self._looking.submit(before.close)  # behind those that ask it
        return after

    def _take_ramp(self) -> None:
        try:
            self._ramp = self._read_ramp()
        except UserError as error:
            _LOG.error("The experiment stays as it was: %s", error)
        else:
            _LOG.info("Experiment: %s", self._ramp)

    def _read_ramp(self) -> Ramp | None:
        if self._ramp_file is None:
            return None
        self._ramp_mark = mark(self._ramp_file)
        ramp = experiment.read(self._ramp_file)
        if ramp.percent and "challenger" not in self._predictors:
            raise UserError(f"{self._ramp_file}: its challenger has {ramp.percent:g} %, and --challenger names none.")
        return ramp

    async def _live(self, request: Request) -> Response:
        return as_json({"live": True})

    async def _openapi(self, request: Request) -> Response:
        return as_json(openapi.of_transformer(version("serm"), self._settings))

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
        listed = await loop.run_in_executor(self._looking, self._looked_up, asked)
        shown = self._ramp.exposure(hashed(asked.client_id, self._key)) if self._ramp else None
        group: Group | None = shown["variant"] if shown else None
        end = start + min(deadline(headers), self._settings.deadline_seconds)
        page, ranked_by = await self._page(asked, listed, group, end, headers)
        record = _record(asked, page, ranked_by, shown, self._key)
        logged = self._query_log.add(record)
        if self._events is not None:
            self._events.add(asked, record)
        _RANKED.labels(ranked_by).inc()
        _MISSING.inc(listed.texts.count(None))
        _JUDGED.inc(len(listed.grades))
        _SECONDS.observe(time.perf_counter() - start)
        return as_json(
            {
                "query_id": asked.query_id,
                "variant": _variant(group),
                "ranked_by": ranked_by,
                "model_version": page[0].version,
                "results": [_result(asked, one, ranked_by) for one in page],
                "unknown": [one for one, text in zip(asked.ids, listed.texts, strict=True) if text is None],
                "logged": logged,
            }
        )

    async def _page(
        self,
        asked: RankRequest,
        listed: Listed,
        group: Group | None,
        end: float,
        headers: Mapping[str, str],
    ) -> tuple[list[Served], str]:
        """Return the page, and who ranked it: a variant, or ``both``; where the challenger fails, the champion."""
        documents = [text for text in listed.texts if text is not None]
        variant: Variant = "champion" if group is None else serves(group)
        if not documents:
            return pages.ranked(Scored((), ""), listed, _variant(group)), variant

        def score(of: Variant) -> Coroutine[Any, Any, Scored]:
            return self._asked(of, asked.query, documents, end, headers)

        if variant == "champion":
            return pages.ranked(await score("champion"), listed, _variant(group)), variant
        assert self._ramp is not None
        wanted: list[Variant] = ["challenger", "champion"] if self._ramp.interleave else ["challenger"]
        scored = await asyncio.gather(*map(score, wanted), return_exceptions=True)
        failed = scored[0]
        if isinstance(failed, Unavailable | Busy):
            _LOG.error("The champion answers, for the challenger does not: %r", failed)
            _FELL_BACK.inc()
            instead = scored[1] if len(scored) > 1 else await score("champion")
            if isinstance(instead, BaseException):
                raise instead
            return pages.ranked(instead, listed, _variant(group)), "champion"
        found: dict[Variant, Scored] = {}
        for of, one in zip(wanted, scored, strict=True):
            if isinstance(one, BaseException):
                raise one
            found[of] = one
        if self._ramp.interleave:
            key = f"{self._ramp.name} {asked.query_id}"
            return pages.interleaved(found, listed, key), "both"
        return pages.ranked(found["challenger"], listed, _variant(group)), "challenger"

    def _looked_up(self, asked: RankRequest) -> Listed:
        """Look up the texts that the request does not bring, and what is judged of its documents."""
        wanted = [one for one, text in zip(asked.ids, asked.texts, strict=True) if text is None]
        found = self._store.texts(wanted) if wanted and self._store is not None else {}
        texts = [found.get(one) if text is None else text for one, text in zip(asked.ids, asked.texts, strict=True)]
        judged = {} if self._judged is None else self._judged.grades(asked.query, asked.ids)
        grades = {row: judged[one] for row, one in enumerate(asked.ids) if one in judged}
        return Listed(texts, grades, self._settings.judgment_weight, asked.top_n)

    async def _asked(
        self, variant: Variant, query: str, documents: Sequence[str], end: float, headers: Mapping[str, str]
    ) -> Scored:
        left = end - time.perf_counter()
        if left <= 0:
            raise Late
        # What the challenger is given leaves the champion as much, should it fail.
        seconds = left / 2 if variant == "challenger" else left
        told = {**headers, GROUP_HEADER: variant}
        with self.tracing.call(f"score by {variant}", told):
            return await self._predictors[variant].score(query, documents, seconds, told)


def _variant(group: Group | None) -> str:
    """Return what the log's rows call a group: who takes no part in the comparison is the champion's."""
    return group if group in ("challenger", "control") else "champion"


def _result(asked: RankRequest, one: Served, ranked_by: str) -> dict[str, Any]:
    """Return a document of the answer: with its grade, if it is judged, and on an interleaved page with whose it is."""
    more: dict[str, Any] = {} if one.grade is None else {"grade": one.grade}
    if ranked_by == "both":
        more |= {"variant": one.variant, "model_version": one.version}
    return {"id": asked.ids[one.row], "index": one.row, "score": one.score, **more}


def _record(
    asked: RankRequest, page: Sequence[Served], ranked_by: str, shown: dict[str, Any] | None, key: bytes
) -> dict[str, Any]:
    """Return a UBI query with what was returned, which ingest joins with the events of its ``query_id``.

    Its client and session are keyed hashes, those that ingest makes of the events' raw ones; so is the one in
    ``exposure``, which says in OpenFeature's words what the user was ``shown``.
    """
    grades = [one.grade for one in page]
    served: dict[str, Any] = {
        "variants": [one.variant for one in page],
        "model_versions": [one.version for one in page],
        "scores": [one.score for one in page],
        **({"grades": grades} if any(grade is not None for grade in grades) else {}),
        "ranked_by": ranked_by,
        "hashed_ids": True,
    }
    if shown is not None:
        served["exposure"] = shown
    record: dict[str, Any] = {
        "application": "serm",
        "query_id": asked.query_id,
        "client_id": hashed(asked.client_id, key),
        "user_query": asked.query,
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "query_attributes": {"serm": served},
        "query_response_hit_ids": [asked.ids[one.row] for one in page],
    }
    if asked.session_id is not None:
        record["session_id"] = hashed(asked.session_id, key)
    if asked.locale is not None:
        record["query_attributes"]["locale"] = asked.locale
    if asked.start:
        record["query"] = orjson.dumps({"from": asked.start}).decode()
    return record
