"""The models that a train step makes: the challenger, and controls trained as often without this cycle's labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray

from serm.relevance import Model, RelevanceModel
from serm.relevance.model import EncodedPairs
from serm.settings import TrainingSettings
from serm.training.examples import Examples, draw

CHALLENGER = "challenger"


@dataclass(frozen=True)
class Arm:
    """What one model learns, or what it is calibrated on."""

    examples: Examples
    pairs: EncodedPairs | None = None
    """Their frozen part, of a cross-encoder only: it is the same for every model on the champion's encoder."""


def arms(
    champion: Model, examples: Examples, earlier: Examples, calibrating: Examples, settings: TrainingSettings
) -> tuple[dict[str, Arm], Arm]:
    """Return the challenger and each of the ``controls``, and what all are calibrated on; each text is encoded once.

    Anchors get the champion's own distributions, and of the control ``self-training`` this cycle's judgments too. All
    learn the anchors, so that the controls lack this cycle's labels and nothing else. The control ``replay`` is left
    out where there is nothing to replay.

    Args:
        champion: the model that all go on from.
        examples: what the challenger learns.
        earlier: seed and earlier judgments; ``replay`` learns at most ``max_pairs`` of those with weight.
        calibrating: held-out judgments.
        settings: ``controls``, ``max_pairs`` and ``seed`` are read.
    """
    is_anchor = examples.origins == "anchor"
    replay = earlier[:0]
    if "replay" in settings.controls and (earlier.weights > 0).any():
        drawn = draw(earlier[earlier.weights > 0], settings.max_pairs, np.random.default_rng(settings.seed))
        replay = drawn + examples[is_anchor]
    all_pairs, replay_pairs, held_pairs = _encoded(champion, [examples, replay, calibrating])
    is_labelled = np.isin(examples.origins.astype(str), ("new", "shown"))
    asked = is_anchor | is_labelled if "self-training" in settings.controls else is_anchor
    own = np.zeros_like(examples.distributions)
    own[asked] = _opinion(champion, examples, all_pairs, asked)
    examples = examples.taught(is_anchor, own[is_anchor])
    found = {CHALLENGER: Arm(examples, all_pairs)}
    for name in settings.controls:
        if name == "self-training":
            found[name] = Arm(examples.taught(is_labelled, own[is_labelled]), all_pairs)
        elif len(replay):
            found[name] = Arm(replay.taught(replay.origins == "anchor", own[is_anchor]), replay_pairs)
    return found, Arm(calibrating, held_pairs)


def _encoded(champion: Model, parts: list[Examples]) -> list[EncodedPairs | None]:
    """Return the frozen part of each of the ``parts``, computed over all texts together."""
    if not isinstance(champion, RelevanceModel):
        return [None] * len(parts)
    pairs = champion.pairs(*reduce(add, parts).texts())
    ends = np.cumsum([len(part) for part in parts])
    return [pairs[end - len(part) : end] for end, part in zip(ends.tolist(), parts, strict=True)]


def _opinion(
    champion: Model, examples: Examples, pairs: EncodedPairs | None, rows: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the champion's distributions [rows, 4] of the chosen examples."""
    if pairs is None or not isinstance(champion, RelevanceModel):
        return champion.score(*examples[rows].texts()).distribution
    return champion.score_encoded(pairs[rows]).distribution
