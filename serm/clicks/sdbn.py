"""The simplified dynamic Bayesian network: nobody tires, and the last click contents.

With ``continuation`` at 1 a user examines everything down to the click that contents them, or all of the page. So the
parameters are shares of counts: clicks of the impressions examined, and last clicks of all clicks.

Sources: Chapelle and Zhang, "A dynamic Bayesian network click model for web search ranking", WWW 2009
(its simplified model); Chuklin, Markov and de Rijke, "Click Models for Web Search", 2015, section 3.8.
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from serm.clicks.dbn import DynamicBayesianNetwork, Statistics
from serm.clicks.model import beta_curvature
from serm.clicks.pages import Pages
from serm.clicks.prior import Beta, of_clicks, of_satisfaction
from serm.settings import ClickSettings


class SimplifiedDynamicBayesianNetwork(DynamicBayesianNetwork):
    """A fitted model, whose ``continuation`` is 1."""

    name: ClassVar[str] = "simplified dynamic Bayesian network"

    @classmethod
    def fit(cls, pages: Pages, settings: ClickSettings) -> Self:
        """Count; the same pages give the same model."""
        evidence = Statistics.of(pages)
        clicks, skips = evidence.clicks, evidence.passed + evidence.unclicked
        prior = of_clicks(settings, clicks, clicks + skips)
        contentment = of_satisfaction(settings, clicks - evidence.returned, clicks)
        return cls._counted(evidence, prior, contentment)

    def for_pairs_of(self, pages: Pages, settings: ClickSettings) -> Self:
        """Return the model with the pairs of ``pages`` counted."""
        return self._counted(Statistics.of(pages), self.prior, self.satisfaction_prior)

    @classmethod
    def _counted(cls, evidence: Statistics, prior: Beta, contentment: Beta) -> Self:
        clicks, skips = evidence.clicks + prior.ones, evidence.passed + evidence.unclicked + prior.zeros
        contented = evidence.clicks - evidence.returned + contentment.ones
        returned = evidence.returned + contentment.zeros
        attractiveness, satisfaction = clicks / (clicks + skips), contented / (contented + returned)
        return cls(
            attractiveness=attractiveness,
            standard_error=1 / np.sqrt(beta_curvature(attractiveness, clicks, skips)),
            satisfaction=satisfaction,
            satisfaction_error=1 / np.sqrt(beta_curvature(satisfaction, contented, returned)),
            continuation=1.0,
            traces=(),
            converged=True,
            prior=prior,
            satisfaction_prior=contentment,
        )
