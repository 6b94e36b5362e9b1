"""The position-based model: users look at a rank or not, whatever they saw and clicked above.

    P(click | pair, position) = examination[position] * attractiveness[pair]

Sources: Craswell, Zoeter, Taylor and Ramsey, "An experimental comparison of click position-bias models", WSDM 2008,
section 3 (the examination hypothesis); Chuklin, Markov and de Rijke, "Click Models for Web Search", 2015, section 3.3.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from serm.clicks.examination import ExaminationModel
from serm.clicks.pages import Pages


class PositionBasedModel(ExaminationModel):
    """A fitted model; ``cells`` [positions] are the ranks."""

    name: ClassVar[str] = "position-based model"

    @staticmethod
    def cell_of(pages: Pages) -> tuple[NDArray[np.int64], int, int]:
        """Return the rank of each row, from 0, how many ranks there are, and the first."""
        return pages.position.astype(np.int64) - 1, pages.last, pages.first - 1
