"""Users who click far more than users do: a bot, a test script, a scraper. Counted over all users, in the engine."""

from __future__ import annotations

from math import expm1, log1p, sqrt

import ibis
import numpy as np
from numpy.typing import NDArray
from scipy.stats import genpareto

from serm.drift.decision import DriftTest, not_tested, share
from serm.settings import DriftSettings

#: The tail of users is those above this quantile of clicks; with fewer users in it no tail can be fitted.
TAIL, LEAST = 0.95, 30
#: Values that the fit sees, at most.
_FITTED = 10_000
_NAME = "heavy users"


def clicks_of_users(impressions: ibis.Table) -> NDArray[np.int64]:
    """Return [n, 2]: a number of clicks from 1, and how many users of IMPRESSIONS have it."""
    clicked = impressions.filter(impressions.clicked)
    by_user = clicked.group_by("user_id").aggregate(clicks=clicked.count())
    counts = by_user.group_by("clicks").aggregate(users=by_user.count()).order_by("clicks").to_pyarrow()
    return np.stack([counts["clicks"].to_numpy(), counts["users"].to_numpy()], axis=1).astype(np.int64)


def test_heaviest(before: NDArray[np.int64], now: NDArray[np.int64], settings: DriftSettings) -> DriftTest:
    """Test whether this window's heaviest user would be one among as many users of the earlier window.

    No exchange of users can tell: a single bot is as likely in either window. So the tail of the earlier window's
    clicks a user, in parts of their mean, is continued by a generalised Pareto distribution (peaks over threshold:
    Coles, An Introduction to Statistical Modeling of Extreme Values, 2001, chapter 4), and p is the chance that the
    largest of as many users lies as high. The effect is the share of all clicks by users above that tail's reach.
    """
    if not len(now) or not len(before):
        return not_tested(_NAME, "a window has no clicks")
    scaled = [(counts[:, 0] / _mean(counts), counts[:, 1]) for counts in (before, now)]
    values = np.repeat(*_few(*scaled[0]))
    threshold = np.quantile(values, TAIL)
    beyond = values[values > threshold] - threshold
    if len(beyond) < LEAST:
        return not_tested(_NAME, f"fewer than {LEAST} users of the earlier window in the tail")
    shape, _, scale = genpareto.fit(beyond, floc=0)
    # No user is so busy that a busier one cannot be; and a tail of few users is known badly: without one standard error
    # of the shape (Smith, Annals of Statistics 15, 1987), p was below 0.05 in a fifth of the splits of one log.
    shape = max(shape, 0.0)
    shape += (1 + shape) / sqrt(len(beyond))
    clicks, users = scaled[1]
    rare = (1 - TAIL) * genpareto.sf(np.maximum(clicks - threshold, 0), shape, scale=scale)
    p = -expm1(users.sum() * log1p(-min(float(rare[-1]), 1 - 1e-12)))
    outlying = rare * users.sum() <= settings.alpha
    by_them = float((now[:, 0] * now[:, 1])[outlying].sum() / (now[:, 0] * now[:, 1]).sum())
    heaviest = f"the heaviest user clicked {now[-1, 0]:,} times, {clicks[-1]:.0f} times the mean"
    finding = f"{heaviest}; {users[outlying].sum()} users beyond the usual tail made {share(by_them)} of the clicks"
    if outlying.any():
        finding += ": look at them before their clicks are learnt from"
    return DriftTest(
        name=_NAME,
        statistic="clicks of the heaviest user, in means",
        value=float(clicks[-1]),
        p=p,
        effect=by_them,
        floor=settings.min_shift,
        finding=finding,
    )


def _mean(counts: NDArray[np.int64]) -> float:
    """Return the mean clicks of the lower 99 % of the users, which no bot moves."""
    clicks, users = counts[:, 0], counts[:, 1]
    low = np.cumsum(users) - users < 0.99 * users.sum()
    return float((clicks * users)[low].sum() / users[low].sum())


def _few(clicks: NDArray[np.float64], users: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the histogram, thinned evenly where it stands for more than the fit needs."""
    most = _FITTED / (1 - TAIL)
    if users.sum() <= most:
        return clicks, users
    edges = np.floor(np.cumsum(users) * (most / users.sum())).astype(np.int64)
    return clicks, np.diff(edges, prepend=0)
