"""The offline panel: judges that need no endpoint, each by one kind of evidence.

A judge turns its evidence into grades by a small logistic regression on seed judgments. The grades weigh alike in it,
however many seed judgments each has: a judge speaks for its evidence only. How common a grade is enters once, in the
label model, and not with each judge again; and mined pairs have another mix of grades than seed judgments.

Each sampled path is one regression, fitted on a bootstrap resample of the seed queries; so paths differ as much
as the judge's calibration would on other seed queries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from serm import relevance
from serm.judging.batch import Batch
from serm.judging.evidence.encoder import Embeddings, EncoderEvidence
from serm.judging.evidence.found import Evidence, Found
from serm.judging.evidence.lexical import LexicalEvidence
from serm.judging.evidence.outside import OutsideEvidence
from serm.judging.evidence.users import UserEvidence
from serm.judging.judge import GRADES, Floats, Integers, Votes, majority_vote
from serm.judging.posterior import FEWEST_SEEN
from serm.settings import Settings

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


class CalibratedJudge:
    """A judge that grades by one kind of evidence."""

    def __init__(self, found: Found, queries: list[str], grades: Integers, paths: int, seed: int) -> None:
        """Calibrate on what was found on seed judgments of ``grades`` [n]; at least two grades must occur."""
        known = ~found.abstains
        _, groups = np.unique(queries, return_inverse=True)
        random = np.random.default_rng(seed)
        self._paths = [
            _fit(found.features[known], grades[known], _resample(groups, random)[known]) for _ in range(paths)
        ]

    def judge(self, found: Found) -> Votes:
        """Vote on each pair by what was found on it; abstain where there is no evidence."""
        if not len(found.rationales):
            return majority_vote(lambda path, rows: np.zeros((0, GRADES)), [], np.zeros(0, bool), len(self._paths))

        def draw(path: int, rows: Integers) -> Floats:
            model = self._paths[path]
            distribution = np.zeros((len(rows), GRADES))
            distribution[:, model.classes_] = model.predict_proba(found.features[rows])
            return distribution

        return majority_vote(draw, found.rationales, found.abstains, len(self._paths))


def text_evidence(batch: Batch, settings: Settings) -> list[Evidence]:
    """Return the kinds of evidence that the texts of pairs give."""
    embeddings = Embeddings(relevance.load_encoder(settings.relevance.encoder, settings.relevance))
    catalogue, knowledge = batch.catalogue, batch.knowledge
    return [
        LexicalEvidence(catalogue.locales, catalogue.titles),
        EncoderEvidence(embeddings, catalogue.locales, catalogue.doc_ids, catalogue.texts),
        OutsideEvidence(embeddings, knowledge["key"].to_pylist(), knowledge["text"].to_pylist()),
    ]


def users_evidence(batch: Batch) -> UserEvidence | None:
    """Return what users did; None where they saw too few of the seed judgments to be read as a judge."""
    users = UserEvidence(batch.clicks)
    told = ~users.look_up(batch.known).abstains & ~batch.unseen
    return users if told.sum() >= FEWEST_SEEN and len(np.unique(batch.grades[told])) > 1 else None


def _resample(groups: Integers, random: np.random.Generator) -> Floats:
    """Draw queries with replacement; return how often each pair's query was drawn."""
    queries = groups.max() + 1
    return np.bincount(random.integers(queries, size=queries), minlength=queries)[groups].astype(np.float64)


def _fit(features: Floats, grades: Integers, weights: Floats) -> Pipeline:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
    return model.fit(features, grades, logisticregression__sample_weight=weights)
