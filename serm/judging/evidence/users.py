"""User evidence: what the people who saw a document did with it, with the position they saw it at taken out."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from serm.judging.evidence.found import Found
from serm.judging.judge import Pairs

MIN_IMPRESSIONS = 5
"""A pair shown less often says nothing."""


class UserEvidence:
    """Attractiveness and its standard error, satisfied clicks and dislikes of each pair in the window."""

    name = "users"

    def __init__(self, estimates: pa.Table) -> None:
        """Take what the miner's click model says of the pairs (CLICK_ESTIMATES)."""
        keys = zip(*(estimates[name].to_pylist() for name in ("query", "locale", "doc_id")), strict=True)
        self._rows = {key: row for row, key in enumerate(keys)}
        shown, clicked, satisfied, disliked = (
            estimates[name].to_numpy().astype(np.float64) for name in ("impressions", "clicks", "satisfied", "disliked")
        )
        attractiveness, error, relevance = (
            estimates[name].to_numpy() for name in ("attractiveness", "standard_error", "relevance")
        )
        self._shown, self._clicked = shown, clicked
        self._attractiveness, self._error = attractiveness, error
        self._features = np.stack(
            [
                np.log(attractiveness / (1 - attractiveness)),
                attractiveness - error,
                attractiveness + error,
                relevance,
                (satisfied + 0.5) / (clicked + 1),
                (disliked + 0.5) / (shown + 1),
                np.log1p(shown),
            ],
            axis=1,
        )

    def look_up(self, pairs: Pairs) -> Found:
        """Features: attractiveness (log odds) and its bounds, relevance, satisfied clicks, dislikes, impressions."""
        keys = zip(pairs.queries, pairs.locales, pairs.doc_ids, strict=True)
        rows = np.array([self._rows.get(key, -1) for key in keys], np.int64)
        seen = np.flatnonzero(rows >= 0)
        seen = seen[self._shown[rows[seen]] >= MIN_IMPRESSIONS]
        abstains = np.ones(len(rows), bool)
        abstains[seen] = False
        features = np.zeros((len(rows), self._features.shape[1]))
        features[seen] = self._features[rows[seen]]
        said = [
            "too few users saw it."
            if none
            else f"{self._clicked[row]:.0f} clicks in {self._shown[row]:.0f} impressions, attractiveness "
            f"{self._attractiveness[row]:.2f} (standard error {self._error[row]:.2f}) without position bias."
            for row, none in zip(rows, abstains, strict=True)
        ]
        return Found(features, said, abstains)
