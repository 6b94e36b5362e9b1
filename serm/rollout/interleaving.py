"""Interleaving: one list of both models' rankings, and whose documents users click. It needs far fewer users than A/B.

>>> shown = team_draft(["a", "b", "c"], ["a", "c", "d"], key="query-1")
>>> [one.doc_id for one in shown][0], shown[0].team
('a', None)
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from serm.rollout.sequence import Interval, prior_variance
from serm.rollout.split import Variant

Team = Variant | None
"""Whose document it is; None: both models put it there, so a click on it says nothing."""


@dataclass(frozen=True)
class Shown:
    """A document of an interleaved list."""

    doc_id: str
    team: Team


def team_draft(champion: Sequence[str], challenger: Sequence[str], key: str, length: int = 10) -> list[Shown]:
    """Return both rankings as one: in turns each model picks its best document that is not there yet.

    Who picks first is drawn anew for each pair of picks, by ``key`` alone (Radlinski et al., "How Does Clickthrough
    Data Reflect Retrieval Quality?", CIKM 2008): the same key gives the same list, so that a page looks the same when
    it is loaded again. Documents at the head that both rankings share are nobody's: their team would be drawn by lot,
    and a click on them would only add noise (Chapelle et al., TOIS 2012).

    Args:
        champion: document ids, best first, each once.
        challenger: likewise.
        key: such as experiment and query id; another one draws anew.
        length: documents at most.
    """
    return _interleave(champion, challenger, length, lambda turn: _coin(key, turn))


def balanced(champion: Sequence[str], challenger: Sequence[str], key: str, length: int = 10) -> list[str]:
    """Return both rankings as one, the top k of which holds about as much of the one's top as of the other's.

    Who begins is drawn once, by ``key`` (Joachims, "Optimizing search engines using clickthrough data", KDD 2002).
    ``balanced_credit`` says which of them a page's clicks prefer.
    """
    first, second = (champion, challenger) if _coin(key, 0) else (challenger, champion)
    shown: dict[str, None] = {}
    at = [0, 0]
    while len(shown) < length and (at[0] < len(first) or at[1] < len(second)):
        turn = 0 if at[0] < len(first) and (at[0] <= at[1] or at[1] >= len(second)) else 1
        shown.setdefault((first, second)[turn][at[turn]])
        at[turn] += 1
    return list(shown)


def credit(shown: Sequence[Shown], clicked: Sequence[str]) -> int:
    """Return 1 where a team-drafted page's clicks prefer the challenger, -1 the champion, 0 neither."""
    chosen = set(clicked)
    balance = sum(1 if one.team == "challenger" else -1 for one in shown if one.team and one.doc_id in chosen)
    return (balance > 0) - (balance < 0)


def balanced_credit(champion: Sequence[str], challenger: Sequence[str], clicked: Sequence[str]) -> int:
    """Return 1 where the clicks of a balanced page prefer the challenger, -1 the champion, else 0.

    With k the smallest depth at which either ranking holds the lowest click, the one whose top k has more clicks wins.
    """
    ranks = [{doc: rank for rank, doc in enumerate(ranking, 1)} for ranking in (champion, challenger)]
    chosen = [doc for doc in clicked if any(doc in one for one in ranks)]
    if not chosen:
        return 0
    lowest = max(chosen, key=lambda doc: min(one.get(doc, len(one) + 1) for one in ranks))
    depth = min(one[lowest] for one in ranks if lowest in one)
    wins = [sum(one.get(doc, depth + 1) <= depth for doc in chosen) for one in ranks]
    return (wins[1] > wins[0]) - (wins[1] < wins[0])


def preference(credits: Mapping[str, Sequence[int]], alpha: float, planned_users: int) -> Interval:
    """Return the preference for the challenger, -1 to 1, with an interval that holds at all looks together.

    A user counts once, by the mean of their pages' credits, pages without a preference included: pages of one user are
    alike, users are what was drawn.

    Args:
        credits: user -> the credit of each page.
        alpha: chance that any look's interval misses the true preference.
        planned_users: at which the interval is narrowest; fixed before the first look.
    """
    means = np.array([np.mean(pages) for pages in credits.values() if len(pages)])
    variance = float(means.var(ddof=1)) if len(means) > 1 else 0.0
    return interval_of(len(means), float(means.mean()) if len(means) else float("nan"), variance, alpha, planned_users)


def interval_of(users: int, mean: float, variance: float, alpha: float, planned_users: int) -> Interval:
    """Return the interval of the users' ``mean`` credit at all looks together; ``variance`` is that between users."""
    if users < 2 or variance <= 0:
        return Interval.of(mean, 0.0, 1.0, alpha)
    return Interval.of(mean, variance / users, prior_variance(variance / planned_users, alpha), alpha)


def _interleave(
    champion: Sequence[str], challenger: Sequence[str], length: int, champion_first: Callable[[int], bool]
) -> list[Shown]:
    shared = 0
    for one, other in zip(champion, challenger, strict=False):
        if one != other:
            break
        shared += 1
    shown: dict[str, Team] = dict.fromkeys(champion[: min(shared, length)])
    turn = 0
    while len(shown) < length:
        rankings: list[tuple[Team, Sequence[str]]] = [("champion", champion), ("challenger", challenger)]
        before = len(shown)
        for team, ranking in rankings if champion_first(turn) else rankings[::-1]:
            best = next((doc for doc in ranking if doc not in shown), None)
            if best is not None and len(shown) < length:
                shown[best] = team
        turn += 1
        if len(shown) == before:
            break
    return [Shown(doc, team) for doc, team in shown.items()]


def _coin(key: str, turn: int) -> bool:
    return bool(hmac.digest(key.encode(), b"interleave:%d" % turn, hashlib.sha256)[0] & 1)
