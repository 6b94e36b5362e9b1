"""The user browsing model: how far users look depends on the rank and on where they clicked last.

    P(click | pair, position, last click) = examination[position, last click] * attractiveness[pair]

Sources: Dupret and Piwowarski, "A user browsing model to predict search engine click data from past observations",
SIGIR 2008, section 3 (there by rank and distance to the last click, which says the same); Chuklin, Markov and de
Rijke, "Click Models for Web Search", 2015, section 3.5.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from serm.clicks.examination import ExaminationModel
from serm.clicks.pages import Pages

#: Ranks further down share their parameters with this one, so that there are not too many.
_DEEPEST = 100


class UserBrowsingModel(ExaminationModel):
    """A fitted model; ``cells`` are the ranks, from 0, by the position of the last click above, 0 for none."""

    name: ClassVar[str] = "user browsing model"

    @staticmethod
    def cell_of(pages: Pages) -> tuple[NDArray[np.int64], int, int]:
        """Return the cell of each row, how many there are, and that of the first rank without a click above it."""
        ranks = min(pages.last, _DEEPEST)
        rank = np.minimum(pages.position, ranks).astype(np.int64) - 1
        last_click = np.minimum(pages.clicked_before, ranks)
        return rank * (ranks + 1) + last_click, ranks * (ranks + 1), (min(pages.first, ranks) - 1) * (ranks + 1)
