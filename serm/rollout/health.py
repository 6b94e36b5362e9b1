"""How two models' servers fare, and whether the challenger's does worse than is borne."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serm.rollout.sequence import always_valid_p, prior_variance
from serm.rollout.split import Variant
from serm.settings import RolloutSettings

Within = tuple[tuple[float, int], ...]
"""Upper bounds of latency, milliseconds, rising to infinity, and the requests within each; empty: not known."""
_SLOWEST = 0.05
"""Share of the requests beyond the 95th percentile."""


@dataclass(frozen=True)
class Health:
    """How a model's server fares since the challenger's traffic began."""

    requests: int
    errors: int
    p95_ms: float | None
    """Latency's 95th percentile; None: not known."""
    within: Within = ()


def failing(of: Mapping[Variant, Health], settings: RolloutSettings, planned: int | None, alpha: float) -> list[str]:
    """Return what of the challenger's server fails, or is slow, confidently more than is borne of the champion's.

    Args:
        of: both servers, in the same time.
        settings: what is borne.
        planned: requests at which the test is sharpest; None: at those that there are, for they are looked at once.
        alpha: of the test, at all looks together.
    """
    challenger, champion = of["challenger"], of["champion"]
    if min(challenger.requests, champion.requests) < settings.min_requests:
        return []
    found = []
    rates = [one.errors / one.requests for one in (challenger, champion)]
    # One error more in each, so that no error at all is not taken for certainty.
    smoothed = [((one.errors + 1) / (one.requests + 2), one.requests) for one in (challenger, champion)]
    variance = sum(rate * (1 - rate) / n for rate, n in smoothed)
    if _surely(rates[0] - rates[1] - settings.max_error_rise, variance, challenger.requests, planned, alpha):
        found.append(f"{rates[0]:.2%} of the challenger's requests fail, {rates[1]:.2%} of the champion's")
    return found + _slow(challenger, champion, settings, planned, alpha)


def _slow(
    challenger: Health, champion: Health, settings: RolloutSettings, planned: int | None, alpha: float
) -> list[str]:
    """Return that the challenger's 95th percentile is above what is borne of the champion's.

    A histogram tells exactly how many requests its bounds hold, and little of what lies between two. So what is tested
    is whether confidently more than 5 % of the challenger's requests lie above the first bound beyond
    ``max_latency_ratio`` times the bound that holds 95 % of the champion's: coarse buckets make it slow to tell, and
    never wrong. Where a backend knows a percentile only, its ratio decides.
    """
    slow, usual = challenger.p95_ms, champion.p95_ms
    if usual is None or (slow is None and not challenger.within):
        return []
    longest = f"{slow:.0f}" if slow is not None else f"more than {challenger.within[-2][0]:.0f}"
    told = f"95 % of the challenger's answers take up to {longest} ms, of the champion's {usual:.0f}"
    if not (challenger.within and champion.within):
        return [told] if slow is not None and slow > settings.max_latency_ratio * usual else []
    enough = (1 - _SLOWEST) * champion.within[-1][1]
    borne = settings.max_latency_ratio * next(bound for bound, count in champion.within if count >= enough)
    limit, held = next((bound, count) for bound, count in challenger.within if bound >= borne)
    total = challenger.within[-1][1]
    share = (total - held + 1) / (total + 2)
    if total and _surely((total - held) / total - _SLOWEST, share * (1 - share) / total, total, planned, alpha):
        return [f"{told}: {total - held} of {total} are slower than {limit:.0f} ms"]
    return []


def _surely(more: float, variance: float, requests: int, planned: int | None, alpha: float) -> bool:
    """Tell whether a share of requests is above what is borne, at all looks together.

    The test is sharpest at ``planned`` requests; None: at those that there are, for they are looked at once.
    """
    prior = prior_variance(variance * requests / (planned or requests), alpha)
    return more > 0 and always_valid_p(more, variance, prior) <= alpha
