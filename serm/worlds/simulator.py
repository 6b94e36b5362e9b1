"""Simulated users: rankings and true grades become a log of impressions.

Users read, click and stop as a dynamic Bayesian network (Chapelle and Zhang, "A Dynamic Bayesian Network Click
Model for Web Search Ranking", WWW 2009, section 4). All is vectorised over sessions: the only loop runs over the
positions of a page.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Array = npt.NDArray[Any]

#: No user is hidden behind these ids; the key only makes them look like the hashes of a real log.
_USER_KEY = b"simulated users"

_NO_RESULT = -1


@dataclass(frozen=True)
class Users:
    """How simulated users behave. Each tuple has one value for each grade, 0 to 3."""

    attractiveness: tuple[float, ...] = (0.06, 0.20, 0.50, 0.80)
    """a: the chance that an examined document is clicked."""
    satisfaction: tuple[float, ...] = (0.05, 0.25, 0.60, 0.85)
    """s: the chance that a clicked document satisfies, which ends the session."""
    perseverance: float = 0.85
    """gamma: the chance that an unsatisfied user examines the next document."""
    misclicks: float = 0.02
    """The chance that an examined document is clicked whatever it is."""
    dwell_median: tuple[float, ...] = (5.0, 12.0, 30.0, 60.0)
    """Seconds; dwell times are log-normal."""
    reading: float = 1.5
    """Seconds to look at a result on the page."""
    dwell_spread: float = 0.8
    """Standard deviation of the logarithm of a dwell time."""
    dislikes: tuple[float, ...] = (0.03, 0.01, 0.002, 0.0)
    """The chance that an examined document gets negative feedback."""
    reformulation: float = 0.35
    """The chance that an unsatisfied user asks a related query, where there is one."""
    sessions_per_user: float = 4.0

    def click_chance(self) -> Array:
        """Return the chance that an examined document of each grade is clicked, misclicks included: float [4]."""
        return 1 - (1 - np.array(self.attractiveness)) * (1 - self.misclicks)


@dataclass(frozen=True)
class Ranking:
    """What an engine would show for Q queries: D documents each, best first."""

    queries: Array
    """str [Q]"""
    locales: Array
    """str [Q]"""
    doc_ids: Array
    """str [Q, D]"""
    published: Array
    """datetime64[us] [Q, D], UTC: a session before this time does not see the document"""
    scores: Array
    """float [Q, D]: the champion's expected grades"""
    version: str
    """The champion's version"""


@dataclass(frozen=True)
class Behaviour:
    """What users did on N pages of R positions."""

    examined: Array
    """bool [N, R]"""
    clicked: Array
    """bool [N, R]"""
    disliked: Array
    """bool [N, R]"""
    dwell: Array
    """seconds [N, R], NaN without a click"""
    click: Array
    """seconds [N, R] from the page to the click, NaN without one"""
    satisfied: Array
    """bool [N]"""


@dataclass(frozen=True)
class _Pages:
    """Issued queries: N pages of R positions."""

    session: Array
    query: Array
    time: Array
    document: Array
    """int [N, R], the column of the ranking"""
    shown: Array
    """bool [N, R]"""
    behaviour: Behaviour


def browse(grades: Array, users: Users, generator: np.random.Generator) -> Behaviour:
    """Let users go through pages of true ``grades``: int [N, R], -1 where the page has no result."""
    grade = np.maximum(grades, 0)
    chance = generator.random((4, *grades.shape))
    would_click = chance[0] < users.click_chance()[grade]
    would_satisfy = chance[1] < np.array(users.satisfaction)[grade]
    goes_on = chance[2] < users.perseverance
    examined = np.zeros(grades.shape, bool)
    reading, satisfied = np.ones(len(grades), bool), np.zeros(len(grades), bool)
    for position in range(grades.shape[1]):
        examined[:, position] = reading & (grades[:, position] != _NO_RESULT)
        content = examined[:, position] & would_click[:, position] & would_satisfy[:, position]
        satisfied |= content
        reading = examined[:, position] & ~content & goes_on[:, position]
    clicked = examined & would_click
    spread = np.exp(users.dwell_spread * generator.standard_normal(grades.shape))
    dwell = np.maximum(np.round(np.array(users.dwell_median)[grade] * spread, 1), 0.1)
    return Behaviour(
        examined=examined,
        clicked=clicked,
        disliked=examined & (chance[3] < np.array(users.dislikes)[grade]),
        dwell=np.where(clicked, dwell, np.nan),
        click=np.where(clicked, _until(np.where(clicked, dwell, 0.0), users.reading), np.nan),
        satisfied=satisfied,
    )


def _until(dwell: Array, reading: float) -> Array:
    """Return when a user comes to the end of each result: ``reading`` seconds each, and the dwell of clicks before."""
    ends: Array = np.round(reading * np.arange(1, dwell.shape[1] + 1) + np.cumsum(dwell, axis=1) - dwell, 1)
    return ends


def simulate(
    ranking: Ranking,
    grades: Array,
    popularity: Array,
    related: Array,
    *,
    window: tuple[datetime, datetime],
    name: str,
    sessions: int,
    positions: int,
    exploration: float,
    users: Users,
    generator: np.random.Generator,
) -> pa.Table:
    """Return the log of ``sessions`` simulated sessions (IMPRESSIONS, in order of time).

    Args:
        ranking: the Q queries' candidates.
        grades: int [Q, D], their true grades.
        popularity: float [Q], the share of sessions that begin with each query; sums to 1.
        related: int [Q], the query that an unsatisfied user asks next, -1 for none.
        window: start and end; all events lie in it.
        name: stands before each query_id and session_id, so that two logs do not share any.
        sessions: how many sessions; reformulations come on top.
        positions: documents on a page.
        exploration: standard deviation of the noise added to the scores of a page, in grades.
        users: how they behave.
        generator: the only source of randomness.
    """
    times = _times(window, sessions, generator)
    query = generator.choice(len(popularity), sessions, p=popularity)

    def ask(session: Array, query: Array, time: Array) -> _Pages:
        document, shown = _rank(ranking, query, time, positions, exploration, generator)
        page = np.where(shown, grades[query[:, None], document], _NO_RESULT)
        return _Pages(session, query, time, document, shown, browse(page, users, generator))

    first = ask(np.arange(sessions), query, times)
    again = ~first.behaviour.satisfied & (related[query] >= 0)
    again &= generator.random(sessions) < users.reformulation
    pause = generator.integers(15_000_000, 120_000_000, sessions).astype("timedelta64[us]")
    second = ask(np.flatnonzero(again), related[query[again]], (times + pause)[again])
    visitors = _visitors(ranking.locales[query], users, generator)
    table = pa.concat_tables(
        [_rows(ranking, pages, visitors, name, turn) for turn, pages in enumerate((first, second))]
    )
    return table.sort_by([("event_time", "ascending"), ("query_id", "ascending"), ("position", "ascending")])


def spoil(log: pa.Table, share: float, generator: np.random.Generator) -> tuple[pa.Table, dict[str, int]]:
    """Return the log with about ``share`` of its rows spoilt, and how many rows of each kind.

    A quarter each: delivered twice, a blank query, position 0, a click with a negative dwell time.
    """
    count = round(share * len(log) / 4)
    clicks = generator.permutation(np.flatnonzero(np.asarray(log["clicked"])))[:count]
    others = generator.permutation(np.setdiff1d(np.arange(len(log)), clicks))[: 3 * count]
    twice, blank, unplaced = np.array_split(others, 3)
    query = np.array(log["query"].to_pylist(), object)
    query[blank] = generator.choice(["", " ", "   "], len(blank))
    position = np.array(log["position"].to_numpy())
    position[unplaced] = 0
    dwell = np.array(log["dwell_seconds"].to_numpy())
    dwell[clicks] *= -1
    columns = {
        "query": pa.array(query, pa.string()),
        "position": pa.array(position, pa.int32()),
        "dwell_seconds": pa.array(dwell, pa.float64(), from_pandas=True),
    }
    for column, values in columns.items():
        log = log.set_column(log.schema.get_field_index(column), column, values)
    log = log.take(pa.array(np.sort(np.concatenate([np.arange(len(log)), twice]))))
    return log, {
        "delivered twice": len(twice),
        "blank query": len(blank),
        "position 0": len(unplaced),
        "negative dwell": len(clicks),
    }


def _times(window: tuple[datetime, datetime], count: int, generator: np.random.Generator) -> Array:
    """Return sorted session starts in the window, its last ten minutes left free for reformulations."""
    start, end = (np.datetime64(moment.replace(tzinfo=None), "us") for moment in window)
    span = int((end - start).astype(int)) - 600_000_000
    return start + np.sort(generator.integers(0, span, count)).astype("timedelta64[us]")


def _rank(
    ranking: Ranking, query: Array, time: Array, positions: int, exploration: float, generator: np.random.Generator
) -> tuple[Array, Array]:
    """Return for each page the ranking's columns in the order shown, and whether there is a document there."""
    noise = exploration * generator.standard_normal((len(query), ranking.scores.shape[1]))
    score = np.where(ranking.published[query] <= time[:, None], ranking.scores[query] + noise, -np.inf)
    order = np.argsort(-score, axis=1, kind="stable")[:, :positions]
    return order, np.take_along_axis(score, order, axis=1) > -np.inf


def _visitors(locales: Array, users: Users, generator: np.random.Generator) -> pa.Array:
    """Return a user id for each session: users keep to their locale, and some come more often than others."""
    _, locale, sessions = np.unique(locales, return_inverse=True, return_counts=True)
    number = np.ceil(sessions / users.sessions_per_user)[locale] * generator.random(len(locales)) ** 1.5
    _, first, user = np.unique(np.stack([locale, number.astype(int)]), axis=1, return_index=True, return_inverse=True)
    names = [f"{locales[i]}-{int(number[i])}".encode() for i in first]
    ids = pa.array([hmac.digest(_USER_KEY, name, "sha256").hex()[:16] for name in names])
    return ids.take(pa.array(user.ravel()))


def _rows(ranking: Ranking, pages: _Pages, visitors: pa.Array, name: str, turn: int) -> pa.Table:
    """Return one row for each document shown (IMPRESSIONS)."""
    page, position = np.nonzero(pages.shown)
    query, document = pages.query[page], pages.document[page, position]
    session = pa.array(pages.session[page])
    ids = pa.array([f"{name}-{number:07d}" for number in range(len(visitors))])
    query_ids = pa.array([f"{name}-{number:07d}-{turn}" for number in range(len(visitors))])
    behaviour = pages.behaviour
    count = len(page)
    return pa.table(
        {
            "event_time": pa.array(pages.time[page], pa.timestamp("us", "UTC")),
            "query_id": query_ids.take(session),
            "session_id": ids.take(session),
            "user_id": visitors.take(session),
            "locale": pa.array(ranking.locales.tolist()).take(pa.array(query)),
            "query": pa.array(ranking.queries.tolist()).take(pa.array(query)),
            "doc_id": pa.array(ranking.doc_ids.ravel().tolist()).take(
                pa.array(query * ranking.doc_ids.shape[1] + document)
            ),
            "position": pa.array(position + 1, pa.int32()),
            "clicked": pa.array(behaviour.clicked[page, position]),
            "dwell_seconds": pa.array(behaviour.dwell[page, position], from_pandas=True),
            "click_seconds": pa.array(behaviour.click[page, position], from_pandas=True),
            "negative_feedback": pa.array(behaviour.disliked[page, position]),
            "score": pa.array(ranking.scores[query, document].astype(float)),
            "model_version": pa.repeat(ranking.version, count),
            "variant": pa.repeat("champion", count),
        }
    )
