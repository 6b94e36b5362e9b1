"""User evidence: what the people who saw a document did with it, with the position they saw it at taken out."""

from __future__ import annotations

from pathlib import Path

import ibis
import numpy as np

from serm import clicks, contracts
from serm import engine as engines
from serm.judging.evidence.found import Found
from serm.judging.judge import Pairs
from serm.settings import Settings

MIN_IMPRESSIONS = 5
"""A pair shown less often says nothing."""


class UserEvidence:
    """Attractiveness and its standard error, satisfied clicks and dislikes of each pair in the window."""

    name = "users"

    def __init__(self, impressions: Path, wanted: Pairs, settings: Settings) -> None:
        """Fit the click model to the window's IMPRESSIONS, and keep what it says of the ``wanted`` pairs.

        Raises:
            UserError: there is no such dataset, or nothing in it.
        """
        with engines.connect(settings.engine) as engine:
            log = contracts.scan(engine, impressions, contracts.IMPRESSIONS)
            satisfied = log.clicked & (log.dwell_seconds >= clicks.SATISFIED_SECONDS)
            counted = clicks.count(log, satisfied=satisfied.sum(), disliked=log.negative_feedback.sum())
            counts = engine.create_table("user_counts", counted, temp=True)
            numbers = clicks.ClickCounts.read(counts)
            numbered = engines.hold(engine, "user_rows", clicks.number(log, counts))
            model = clicks.fit(numbered, numbers, settings.clicks)
            sums = {name: counts[name].sum() for name in ("impressions", "clicks", "satisfied", "disliked")}
            asked = ibis.memtable(dict(zip(clicks.PAIR, (wanted.queries, wanted.locales, wanted.doc_ids), strict=True)))
            shown_pairs = counts.group_by("pair", *clicks.PAIR).aggregate(**sums)
            pairs = shown_pairs.semi_join(asked, clicks.PAIR).order_by("pair").to_pyarrow()
        keys = zip(*(pairs[name].to_pylist() for name in clicks.PAIR), strict=True)
        self._rows = {key: row for row, key in enumerate(keys)}
        shown, clicked, satisfied_clicks, dislikes = (
            pairs[name].fill_null(0).to_numpy().astype(np.float64)
            for name in ("impressions", "clicks", "satisfied", "disliked")
        )
        self._shown, self._clicked = shown, clicked
        numbers_of = pairs["pair"].to_numpy()
        attractiveness, error = model.attractiveness[numbers_of], model.standard_error[numbers_of]
        self._attractiveness, self._error = attractiveness, error
        self._features = np.stack(
            [
                np.log(attractiveness / (1 - attractiveness)),
                attractiveness - error,
                attractiveness + error,
                model.relevance[numbers_of],
                (satisfied_clicks + 0.5) / (clicked + 1),
                (dislikes + 0.5) / (shown + 1),
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
