"""A rollout with simulated users: they search on a site on this machine and click on what it shows them.

Model servers, engines, HAProxy, HTTP, log and controller are real; users and what they like are the world's.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serm import contracts
from serm.errors import UserError
from serm.evaluation.measures import ndcg
from serm.layout import CHAMPION, CYCLE, DOCUMENTS, LOG, ROLLOUTS
from serm.rollout import controller, traffic
from serm.rollout.record import Record, load, path_of, save
from serm.serving.server import running
from serm.settings import EngineSettings, RolloutSettings
from serm.worlds.emoji import EmojiWorld
from serm.worlds.search_site import Asked, Engine, Proxy, answering, proxied
from serm.worlds.simulator import Users, browse
from serm.worlds.traffic import FirstStage, candidates, popularity, related

Array = npt.NDArray[Any]

RAMP = RolloutSettings(
    steps=(5, 20, 50),
    min_users=100,
    max_days=14,
    watch_days=0,
    primary=("first_click",),
    guardrails={"abandonment": 0.1, "negative_feedback": 0.5},
    signals=("satisfied_clicks", "click_through"),
    planned_users=4000,
    min_requests=100,
    before_days=0,
    unwatched=("latency",),
)
"""A ramp for some thousand users a day: first clicks higher up are seen sooner than more satisfied ones. HAProxy tells
no latency."""
USERS_A_DAY = 3000
_CLIENTS = 8
_NOTE = "Simulated users, on real model servers behind a real HAProxy."


@dataclass(frozen=True)
class Site:
    """What people ask in a window, what the first stage serves them, and, hidden from all models, how good it is."""

    queries: Array
    """str [Q], the most popular first"""
    locales: Array
    """str [Q]"""
    shares: Array
    """float [Q], of the searches; sums to 1"""
    related: Array
    """int [Q]: what an unsatisfied user asks next, -1 for nothing"""
    doc_ids: Array
    """str [Q, D]"""
    texts: Array
    """str [Q, D]"""
    grades: Array
    """int [Q, D], the hidden truth"""


def site(workspace: Path, world: EmojiWorld, stage: FirstStage, window: int) -> Site:
    """Return the site at the end of a window."""
    rows, shares = popularity(world, window)
    truth = world.truth
    queries, locales = truth.queries[rows].tolist(), truth.locales[rows].tolist()
    documents = contracts.read(workspace / DOCUMENTS, contracts.DOCUMENTS)
    since = world.windows[window][0]
    place, texts = candidates(stage, queries, locales, documents, world.candidates, since)
    doc_ids = np.asarray(documents["doc_id"])[place]
    depth = place.shape[1]
    grades = truth.lookup(
        pa.array(np.repeat(queries, depth)), pa.array(np.repeat(locales, depth)), pa.array(doc_ids.ravel())
    )
    return Site(
        truth.queries[rows],
        truth.locales[rows],
        shares,
        related(truth, rows),
        doc_ids,
        texts[place],
        grades.reshape(place.shape),
    )


def roll_out(
    workspace: Path, world: EmojiWorld, stage: FirstStage, window: int, tag: str, on: EngineSettings
) -> list[Record]:
    """Ramp the challenger of the cycle ``tag`` up in the days after its window, and return what became of it.

    Its log goes to ``log/ramp=WINDOW``, so that it is part of the next cycle's window. Where users promote it, the old
    champion is offered to them in turn, as a challenger that is worse: that rollout, ``TAG-reversed``, leaves its
    record only. A rollout that ended is not run again; one that was cut short is, from its start.

    Raises:
        UserError: there is no HAProxy here, or a server does not start.
    """
    records = workspace / ROLLOUTS
    names = (tag, f"{tag}-reversed")
    known = [load(path) for name in names if (path := path_of(records, name)).exists()]
    if known and known[0].outcome not in ("running", "promoted"):
        return known
    if len(known) == 2 and known[1].outcome != "running":
        return known
    models = {"champion": workspace / CHAMPION, "challenger": workspace / CYCLE / "train/model"}
    found = site(workspace, world, stage, window)
    asked = Asked(found.queries.tolist(), found.texts.tolist())
    start = world.windows[window][1]
    with ExitStack() as stack:
        ready = {side: stack.enter_context(running({"relevance": path})) for side, path in models.items()}
        engines = {side: Engine(asked, wait()) for side, wait in ready.items()}
        ports = {side: stack.enter_context(answering(engine)) for side, engine in engines.items()}
        log = workspace / LOG / f"ramp={window}"
        sides = ("champion", "challenger")
        record = _ramp(
            found, [engines[one] for one in sides], [ports[one] for one in sides], records, tag, log, start, on
        )
        if record.outcome != "promoted":
            return [record]
        scratch = workspace / ".serm" / names[1]
        try:
            back = sides[::-1]
            pair = [engines[one] for one in back], [ports[one] for one in back]
            return [record, _ramp(found, *pair, records, names[1], scratch, start, on)]
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _ramp(
    found: Site,
    engines: Sequence[Engine],
    ports: Sequence[int],
    records: Path,
    name: str,
    log: Path,
    start: datetime,
    on: EngineSettings,
) -> Record:
    """Let users come day by day until they have decided between two engines, champion and challenger."""
    path = path_of(records, name)
    if path.exists():
        if (known := load(path)).outcome != "running":
            return known
        path.unlink()
    shutil.rmtree(log, ignore_errors=True)
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
    with proxied(ports[0], ports[1], name) as proxy, traffic.connect("haproxy", proxy.options, "", "") as backend:
        record = controller.start(records, name, RAMP, backend, start, note=_NOTE)
        for day in range(round(RAMP.max_days) + 1):
            began = start + timedelta(days=day)
            rows = _day(found, proxy, f"{name}-{day:02d}", began, random)
            contracts.write(rows, log / f"day={day:02d}", contracts.IMPRESSIONS)
            record = controller.tick(records, name, log, on, backend, began + timedelta(days=1)).record
            if record.outcome != "running":
                break
    record = record.with_(note=f"{_NOTE} {_truth(found, engines)}")
    save(path, record)
    return record


def _day(found: Site, proxy: Proxy, name: str, began: datetime, random: np.random.Generator) -> pa.Table:
    """Let a day's users search and click, and return their log (IMPRESSIONS)."""
    query = random.choice(len(found.shares), USERS_A_DAY, p=found.shares)
    ids = [hashlib.sha256(f"{name}-{number}".encode()).hexdigest()[:16] for number in range(USERS_A_DAY)]
    second = np.sort(random.integers(0, 86_400 - 600, USERS_A_DAY))
    users, pages = Users(), []
    first = _search(found, proxy, ids, np.arange(USERS_A_DAY), query, users, random)
    pages.append(_rows(found, first, ids, name, began, second, 0))
    again = np.flatnonzero(
        ~first.satisfied & (found.related[query] >= 0) & (random.random(USERS_A_DAY) < users.reformulation)
    )
    if len(again):
        next_ = _search(found, proxy, ids, again, found.related[query[again]], users, random)
        pages.append(_rows(found, next_, ids, name, began, second + random.integers(15, 120, USERS_A_DAY), 1))
    return pa.concat_tables(pages).sort_by([("event_time", "ascending"), ("query_id", "ascending")])


@dataclass(frozen=True)
class _Pages:
    """What N searches showed, R documents each, and what their users did."""

    user: Array
    query: Array
    order: Array
    """int [N, R], columns of the site's documents"""
    score: Array
    group: list[str]
    version: list[str]
    clicked: Array
    disliked: Array
    dwell: Array
    click: Array
    satisfied: Array


def _search(
    found: Site, proxy: Proxy, ids: Sequence[str], user: Array, query: Array, users: Users, random: np.random.Generator
) -> _Pages:
    parts = np.array_split(np.arange(len(user)), _CLIENTS)
    with ThreadPoolExecutor(_CLIENTS) as pool:
        asked = [[(ids[user[i]], int(query[i])) for i in part] for part in parts]
        answers = [one for part in pool.map(lambda some: _ask(proxy, some), asked) for one in part]
    scores = np.array([one[0] for one in answers])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    did = browse(found.grades[query[:, None], order], users, random)
    return _Pages(
        user,
        query,
        order,
        np.take_along_axis(scores, order, axis=1),
        [one[2] for one in answers],
        [one[1] for one in answers],
        did.clicked,
        did.disliked,
        did.dwell,
        did.click,
        did.satisfied,
    )


def _ask(proxy: Proxy, searches: Sequence[tuple[str, int]]) -> list[tuple[list[float], str, str]]:
    """Search for each user's query over one connection; return scores, the model's version and the user's group."""
    connection = http.client.HTTPConnection(proxy.host, proxy.port, timeout=120)
    found = []
    try:
        for user, query in searches:
            connection.request("GET", f"/search?q={query}", headers={"x-user-id": user})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise UserError(f"a search was answered with HTTP {answer.status}: a model server has ended.")
            page = json.loads(body)
            found.append((page["scores"], page["version"], answer.headers["x-serm-group"]))
    except OSError as error:
        raise UserError(f"the search site on this machine does not answer: {error}.") from error
    finally:
        connection.close()
    return found


def _rows(
    found: Site, pages: _Pages, ids: Sequence[str], name: str, began: datetime, second: Array, turn: int
) -> pa.Table:
    """Return one row for each document shown (IMPRESSIONS)."""
    count, shown = pages.order.shape
    each = np.repeat(np.arange(count), shown)
    time = np.datetime64(began.replace(tzinfo=None), "us") + second[pages.user].astype("timedelta64[s]")
    session = [f"{name}-{number:05d}" for number in pages.user]
    query = pages.query

    def repeated(values: Any) -> pa.Array:
        return pa.array(values).take(pa.array(each))

    return pa.table(
        {
            "event_time": repeated(pa.array(time, pa.timestamp("us", "UTC"))),
            "query_id": repeated([f"{one}-{turn}" for one in session]),
            "session_id": repeated(session),
            "user_id": repeated([ids[number] for number in pages.user]),
            "locale": repeated(found.locales[query].tolist()),
            "query": repeated(found.queries[query].tolist()),
            "doc_id": pa.array(np.take_along_axis(found.doc_ids[query], pages.order, axis=1).ravel().tolist()),
            "position": pa.array(np.tile(np.arange(1, shown + 1, dtype=np.int32), count)),
            "clicked": pa.array(pages.clicked.ravel()),
            "dwell_seconds": pa.array(pages.dwell.ravel(), from_pandas=True),
            "click_seconds": pa.array(pages.click.ravel(), from_pandas=True),
            "negative_feedback": pa.array(pages.disliked.ravel()),
            "score": pa.array(pages.score.ravel()),
            "model_version": repeated(pages.version),
            "variant": repeated(pages.group),
        }
    )


def _truth(found: Site, engines: Sequence[Engine]) -> str:
    """Say what the hidden truth holds of both models, over the queries that both were asked."""
    both = sorted(engines[0].pages.keys() & engines[1].pages.keys())
    queries, depth = np.repeat(np.arange(len(both)), found.grades.shape[1]), found.shares[both]
    grades = found.grades[both].ravel().astype(np.int64)
    values = []
    for engine in engines:
        scores = np.array([json.loads(engine.pages[query])["scores"] for query in both]).ravel()
        values.append(float(np.average(ndcg(queries, grades, scores, (10,), seed=0)[:, 0], weights=depth)))
    return (
        f"By the hidden truth, which no model and no decision reads, NDCG@10 over {len(both):,} of their queries, by "
        f"how often they are asked, is {values[1]:.3f} for the challenger and {values[0]:.3f} for the champion."
    )
