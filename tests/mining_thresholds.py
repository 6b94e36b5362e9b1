"""Thresholds that the mining tests share."""

from serm.mining.opinion import Thresholds

TAU = Thresholds(
    under_scored_below=1.5,
    over_scored_above=2.0,
    clicks=1.2,
    engagement=0.5,
    relevance=0.4,
    skipped_below=0.1,
    dislike_rate=0.05,
    novelty=0.5,
    rise=4.0,
    disagreement=0.3,
    uncertainty=1.0,
)
