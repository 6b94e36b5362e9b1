"""What judgments say of each grade, as probabilities."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serm.contracts import Grade


def certain(grades: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the distributions [n, 4] of ``grades`` [n] that are not in doubt."""
    return np.eye(len(Grade))[grades]


def distributions(judged: pa.Table) -> NDArray[np.float64]:
    """Return the distributions [n, 4] of judgments (JUDGMENTS); one-hot where a judge gave none."""
    found = certain(judged["grade"].to_numpy().astype(np.int64))
    given = judged["distribution"]
    if given.null_count < len(given):
        found[np.asarray(pc.is_valid(given))] = pc.list_flatten(given).to_numpy().reshape(-1, len(Grade))
    return found
