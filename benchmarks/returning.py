"""Users who come again: each as often, and as easily satisfied, on all days; for ``rollout.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

USERS, SESSIONS_A_DAY, DAYS_BEFORE = 200_000, 20_000, 14
ACTIVITY = 0.5
"""Shape of the gamma distribution of a user's sessions a day: at 0.5 the most active tenth makes half of them."""
TASTE = 0.8
"""A user's own logit of being satisfied by a session, in standard deviations of a normal distribution."""
CLASSES = 9


class Returning:
    """A site's users along a ramp, and the sums over those who were seen in either group."""

    def __init__(
        self,
        columns: Sequence[str],
        sides: Sequence[tuple[Any, Any]],
        winsorise: float,
        habits: bool,
        generator: np.random.Generator,
    ) -> None:
        """Draw the users, and what they did before the start.

        Args:
            columns: of a session, as ``metrics.by_user`` names them.
            sides: kinds of sessions, float [kinds, columns], and their shares, of challenger and champion.
            winsorise: a quantile, as ``metrics.by_user`` has it.
            habits: whether anything is known of before the start.
            generator: the only source of randomness.
        """
        self._columns, self._winsorise, self._generator = list(columns), winsorise, generator
        self._of_searches = [i for i, name in enumerate(columns) if name not in ("sessions", "users")]
        satisfied, searches = (list(columns).index(name) for name in ("with_satisfied", "searches"))
        levels = TASTE * norm.ppf((np.arange(CLASSES) + 0.5) / CLASSES)
        self._kinds = [kinds for kinds, _ in sides]
        self._chances = [
            [np.cumsum(tilted / tilted.sum()) for tilted in (shares * np.exp(level * rate) for level in levels)]
            for kinds, shares in sides
            for rate in (kinds[:, satisfied] / kinds[:, searches],)
        ]
        self._active = np.cumsum(generator.gamma(ACTIVITY, size=USERS))
        self._class = generator.integers(CLASSES, size=USERS)
        self._place = generator.uniform(0, 100, USERS)
        self._stage = np.full(USERS, -1)
        self._did = np.zeros((USERS, len(columns)))
        self._before = np.zeros((USERS, len(columns)))
        for _ in range(DAYS_BEFORE if habits else 0):
            who = self._visitors()
            np.add.at(self._before, who, self._sessions(who, 1))

    def come(self, percent: int, stage: int) -> tuple[int, int]:
        """Let a day's users come, and return the sessions of the challenger's users and of the control's."""
        who = self._visitors()
        groups = [who[self._place[who] < percent], who[self._place[who] >= 100 - percent]]
        for side, group in enumerate(groups):
            self._stage[group] = np.where(self._stage[group] < 0, stage, self._stage[group])
            np.add.at(self._did, group, self._sessions(group, side))
        return len(groups[0]), len(groups[1])

    def rows(self) -> list[dict[str, Any]]:
        """Return what ``metrics.moments`` would."""
        seen = np.flatnonzero(self._stage >= 0)
        did = self._did[seen]
        at = {name: i for i, name in enumerate(self._columns)}
        did[:, at["users"]] = 1
        many, most = (np.quantile(did[:, at[name]], self._winsorise) for name in ("searches", "sessions"))
        did[:, self._of_searches] *= np.minimum(1, many / did[:, at["searches"]])[:, None]
        did[:, at["sessions"]] = np.minimum(did[:, at["sessions"]], most)
        values = np.concatenate([did, self._before[seen][:, self._of_searches]], axis=1)
        names = [*self._columns, *(f"before_{self._columns[i]}" for i in self._of_searches)]
        stages, challenger = self._stage[seen], self._place[seen] < 50
        return [
            self._row(names, values[(stages == stage) & (challenger == side)], stage, side)
            for stage in range(stages.max() + 1 if len(seen) else 0)
            for side in (True, False)
        ]

    def _row(self, names: Sequence[str], values: Any, stage: int, challenger: bool) -> dict[str, Any]:
        products = values.T @ values
        return {
            "stage": stage,
            "challenger": challenger,
            "n": len(values),
            **dict(zip(names, values.sum(0), strict=True)),
            **{"*".join(sorted((a, b))): products[i, j] for i, a in enumerate(names) for j, b in enumerate(names)},
        }

    def _visitors(self) -> Any:
        """Return who begins a session on a day, once for each."""
        count = self._generator.poisson(SESSIONS_A_DAY)
        return np.searchsorted(self._active, self._generator.uniform(0, self._active[-1], count))

    def _sessions(self, who: Any, side: int) -> Any:
        """Return what came of a session of each: float [sessions, columns]."""
        kinds, of = np.empty(len(who), int), self._class[who]
        for one, chances in enumerate(self._chances[side]):
            mine = np.flatnonzero(of == one)
            kinds[mine] = np.searchsorted(chances, self._generator.uniform(0, chances[-1], len(mine)))
        return self._kinds[side][kinds]
