"""What a kind of evidence is: it looks pairs up, and returns features of each and a sentence that says what it saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serm.judging.judge import Floats, Integers, Pairs


@dataclass(frozen=True)
class Found:
    """What was found on n pairs."""

    features: Floats
    """[n, features]"""
    rationales: list[str]
    abstains: NDArray[np.bool_]
    """[n], true where there is nothing to judge by."""

    def take(self, rows: Integers) -> Found:
        """Return what was found on the pairs of these rows."""
        return Found(self.features[rows], [self.rationales[row] for row in rows], self.abstains[rows])


class Evidence(Protocol):
    """One kind of evidence about pairs; it may depend on the catalogue, but not on the other pairs."""

    name: str

    def look_up(self, pairs: Pairs) -> Found:
        """Return what is found on each pair, in the order of ``pairs``."""
        ...
