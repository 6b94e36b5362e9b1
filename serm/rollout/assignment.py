"""Who takes part in an experiment, and in which group: what serving splits by, and what its numbers are read by.

Two hashes of a user, each HMAC-SHA256 with a name for its key, as ``split.variant`` has them. The first, keyed by a
layer, gives experiments of one layer users of their own: each takes a range of the layer's places. The second, keyed by
the experiment, gives the user a place in it:

    0                percent                    100 - percent                100
    | challenger     | champion, not counted    | champion, control          |

The control is as large as the challenger at each step of a ramp up to 50 % and drawn like it, because comparisons are
between equals. Both groups only grow as the percentage does: nobody is moved between them.

    >>> assign("user-1", Experiment("cycle-0003"), percent=50)
    'control'
    >>> assign("user-1", Experiment("cycle-0003"), percent=1)
    'champion'
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from serm.rollout.split import Variant, place

Group = Literal["challenger", "control", "champion", "outside"]
"""``champion``: served by it but not counted; ``outside``: in no experiment's range of the layer, served by it too."""
GROUP_HEADER = "x-serm-group"
"""The request's header that has its user's group, by which a proxy or a gateway sends it to its model exactly."""


@dataclass(frozen=True)
class Experiment:
    """One comparison of a challenger with the champion."""

    name: str
    """Its salt: another experiment places its users independently."""
    layer: str = ""
    """Experiments of one layer whose ranges do not overlap share no user. Empty: all users, and no layer."""
    low: float = 0.0
    high: float = 100.0
    """Its range [low, high) of the layer's places, 0 to 100."""

    def __post_init__(self) -> None:
        """Check the range.

        Raises:
            ValueError: it is empty, or not within 0 to 100; or there is a range and no layer.
        """
        if not 0 <= self.low < self.high <= 100:
            raise ValueError(
                f"experiment {self.name!r}: its range {self.low:g} to {self.high:g} is not within 0 to 100"
            )
        if not self.layer and (self.low, self.high) != (0.0, 100.0):
            raise ValueError(f"experiment {self.name!r} has a range but no layer; name the layer that it is a range of")

    def overlaps(self, other: Experiment) -> bool:
        """Tell whether some users may be in both: in another layer always, in the same one where ranges meet."""
        return self.layer != other.layer or (self.low < other.high and other.low < self.high)


def assign(user_id: str, experiment: Experiment, percent: float) -> Group:
    """Return the group of a user when the challenger has ``percent`` % (0 to 100) of the experiment's users.

    At more than 50 % the control is all who do not see the challenger, so it is the smaller of the two.
    """
    if experiment.layer and not experiment.low <= place(user_id, f"layer:{experiment.layer}") < experiment.high:
        return "outside"
    at = place(user_id, experiment.name)
    if at < percent:
        return "challenger"
    return "control" if at >= 100 - percent else "champion"


def serves(group: Group) -> Variant:
    """Return the variant that serves a group."""
    return "challenger" if group == "challenger" else "champion"


def shares(percent: float) -> tuple[float, float]:
    """Return the shares (0 to 1) of challenger and control among the experiment's users, for the sample ratio."""
    return percent / 100, min(percent, 100 - percent) / 100


def exposure(user_id: str, experiment: Experiment, percent: float) -> dict[str, Any]:
    """Return what to log when a user is served: an evaluation in the words of OpenFeature's specification.

    ``variant`` is the user's group, as the joined log's column of that name wants it; ``value`` the model that serves.
    ``targetingKey`` is the user's id as it was given: hash it as the log's ids are before it is kept.
    """
    group = assign(user_id, experiment, percent)
    return {
        "flagKey": experiment.name,
        "targetingKey": user_id,
        "variant": group,
        "value": serves(group),
        "reason": "TARGETING_MATCH" if group == "outside" else "SPLIT",
        "flagMetadata": {"percent": percent, "layer": experiment.layer},
    }
