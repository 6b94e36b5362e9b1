"""The challenger against controls: models that learnt as long as it did, from the same champion, but no new label.

``replay`` trains on the earlier judgments only, ``self-training`` on the new pairs with the champion's own grades. What
a control gains too, further steps explain and not the labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serm.evaluation import measures
from serm.evaluation.compare import Numbered
from serm.evaluation.significance import bootstrap_interval, randomisation_p
from serm.settings import EvaluationSettings


@dataclass(frozen=True)
class LessControl:
    """Means of one measure over ``n`` queries, the challenger's less the control's.

    ``low`` and ``high`` bound the ``difference`` (challenger - control) at confidence 1 - alpha; ``p`` is that of the
    paired randomisation test, two-sided. ``control`` is the control's mean; ``gain``, ``gain_low``, ``gain_high`` and
    ``gain_p`` are the same of control - champion.
    """

    n: int
    control: float
    difference: float
    low: float
    high: float
    p: float
    gain: float
    gain_low: float
    gain_high: float
    gain_p: float


def column(control: str) -> str:
    """Return the name of the column that holds a control's scores, beside ``champion`` and ``challenger``."""
    return f"control {control}"


def less_controls(
    pool: Numbered, controls: Sequence[str], settings: EvaluationSettings
) -> dict[str, dict[str, LessControl]]:
    """Return control -> measure -> comparison over all pairs of a test set, no measure where it has no queries.

    ``pool`` has the scores of the champion, the challenger and in ``column`` of each control.
    """
    if not controls or not pool.queries.num_rows:
        return {name: {} for name in controls}
    names = measures.names(settings)
    scores = {"champion": "champion", "challenger": "challenger"} | {name: column(name) for name in controls}
    values = {
        name: measures.measure(pool.number, pool.grade, pool.rows[of].to_numpy(), settings)
        for name, of in scores.items()
    }
    return {name: dict(zip(names, _compare(values, name, settings), strict=True)) for name in controls}


def _compare(
    values: Mapping[str, NDArray[np.float64]], control: str, settings: EvaluationSettings
) -> list[LessControl]:
    less, gain = values["challenger"] - values[control], values[control] - values["champion"]
    both = np.concatenate([less, gain], axis=1)
    p = randomisation_p(both, settings.permutations, settings.seed)
    low, high = bootstrap_interval(both, settings.permutations, 1 - settings.alpha, settings.seed)
    mean, count = both.mean(axis=0), less.shape[1]
    numbers = np.stack([mean, low, high, p]).reshape(4, 2, count)
    return [
        LessControl(
            len(less),
            float(values[control][:, m].mean()),
            *(float(x) for x in numbers[:, 0, m]),
            *(float(x) for x in numbers[:, 1, m]),
        )
        for m in range(count)
    ]
