"""Tests on words, locales, scores and clicks: counts by search, summed over users."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from serm.drift import permutation
from serm.drift.decision import DriftTest, not_tested, rise, share
from serm.drift.permutation import Floats, Outcome, Permutations, sums
from serm.drift.sample import Windows, codes
from serm.pairs.text import fold
from serm.pairs.tokens import words
from serm.settings import DriftSettings

#: Quantiles of the scores over all windows: the bins of their distribution.
BINS = 20
EXAMPLES = 5


class Behaviour:
    """The tests of one comparison."""

    def __init__(self, windows: Windows, permutations: Permutations, settings: DriftSettings) -> None:
        self.windows = windows
        self.permutations = permutations
        self.settings = settings
        self.users = len(windows.window)

    def tests(self) -> list[DriftTest]:
        """Return all tests."""
        return [
            self.locales(),
            self.new_locales(),
            self.scripts(),
            self.new_words(),
            self.new_queries(),
            self.scores(),
            self.click_rates(),
            self.clicks(),
            self.abandonment(),
        ]

    def locales(self) -> DriftTest:
        """The mix of locales."""
        names, code = np.unique(self.windows.column("locale"), return_inverse=True)
        return self._mix("locale mix", names.tolist(), self.windows.user, code, "searches are in other locales")

    def scripts(self) -> DriftTest:
        """The mix of scripts, by letters: Latin, Cyrillic, Han."""
        found = [Counter(map(script, filter(str.isalpha, text))) for _, text in self.windows.queries]
        names = sorted({name for one in found for name in one})
        number = {name: i for i, name in enumerate(names)}
        asked = [
            (search, number[name], n) for search, q in enumerate(self.windows.query) for name, n in found[q].items()
        ]
        search, code, weight = np.array(asked, np.int64).reshape(-1, 3).T
        user = self.windows.user[search]
        return self._mix("scripts", names, user, code, "letters are of other scripts", weight.astype(np.float32))

    def _mix(
        self,
        name: str,
        names: list[str],
        user: NDArray[np.int64],
        code: NDArray[np.int64],
        what: str,
        weight: Floats | None = None,
    ) -> DriftTest:
        features = sums(user, code, self.users, weight)
        outcome = self.permutations.test(features, permutation.moved)
        counts = self.permutations.by_window(features)
        late, early = (part / max(part.sum(), 1) for part in (counts[-1], counts[:-1].sum(axis=0)))
        order = np.argsort(-np.abs(late - early)[: len(names)], kind="stable")[:EXAMPLES]
        examples = [rise(names[i], early[i], late[i]) for i in order]
        finding = f"{share(outcome.value)} of the {what} than before"
        if names:
            finding += f"; most moved {names[order[0]]}, from {share(early[order[0]])} to {share(late[order[0]])}"
        return DriftTest.of(name, "total variation", outcome, self.settings.min_shift, finding, examples)

    def new_locales(self) -> DriftTest:
        """Searches in locales that no earlier window has."""
        names, code = np.unique(self.windows.column("locale"), return_inverse=True)
        return self._absent("new locales", sums(self.windows.user, code, self.users), names.tolist(), "in locales")

    def new_words(self) -> DriftTest:
        """Words that no earlier window has."""
        found = [words(fold(text)) for _, text in self.windows.queries]
        names = sorted({word for one in found for word in one})
        number = {word: i for i, word in enumerate(names)}
        asked = [(search, number[word]) for search, q in enumerate(self.windows.query) for word in found[q]]
        search, code = np.array(asked, np.int64).reshape(-1, 2).T
        return self._absent("new words", sums(self.windows.user[search], code, self.users), names, "words", "words")

    def new_queries(self) -> DriftTest:
        """Searches for queries that no earlier window has."""
        features = sums(self.windows.user, self.windows.query, self.users)
        return self._absent("new queries", features, [text for _, text in self.windows.queries], "for queries")

    def _absent(
        self, name: str, features: permutation.Matrix, names: list[str], what: str, of: str = "searches"
    ) -> DriftTest:
        outcome = self.permutations.test(features, permutation.absent, seasonal=False)
        counts = self.permutations.by_window(features)
        new = counts[-1] * (counts[:-1].sum(axis=0) == 0)
        order = np.argsort(-new, kind="stable")[:EXAMPLES]
        examples = [rise(names[i], 0.0, new[i] / counts[-1].sum()) for i in order if new[i]]
        subject = f"of the {of} are {what}" if of == "searches" else f"of the {of} are ones"
        finding = f"{share(outcome.value)} {subject} that no earlier window has, {share(outcome.expected)} by chance"
        if examples:
            finding += f": {', '.join(str(one['name']) for one in examples)}"
        return DriftTest.of(name, "share of the unseen", outcome, self.settings.min_new_share, finding, examples)

    def scores(self) -> DriftTest:
        """The distribution of the model's scores, of the model versions that this and an earlier window have."""
        rows = self.windows.rows
        version = codes(rows["model_version"].fill_null(""))
        user = self.windows.user[self.windows.search]
        late = self.windows.window[user] == len(self.windows.cycles) - 1
        common = np.intersect1d(version[late], version[~late])
        score = rows["score"].to_numpy()
        if not len(common):
            return not_tested("scores", "no model version served in this and in an earlier window")
        of_common = np.isin(version, common)
        known = of_common & np.isfinite(score)
        if not known[~late].any():
            return not_tested("scores", "the earlier windows' logs have no scores")
        edges = np.unique(np.quantile(score[known], np.arange(1, BINS) / BINS))
        bin_of = np.where(np.isfinite(score), np.searchsorted(edges, score, side="right"), len(edges) + 1)
        features = sums(user[of_common], bin_of[of_common], self.users)
        outcome = self.permutations.test(features, permutation.moved)
        finding = f"{share(outcome.value)} of the scores lie elsewhere than before"
        if known[late].any():
            finding += f"; their mean went from {score[known & ~late].mean():.2f} to {score[known & late].mean():.2f}"
        return DriftTest.of("scores", "total variation", outcome, self.settings.min_shift, finding)

    def click_rates(self) -> DriftTest:
        """Clicks by position."""
        # Numbered among those that occur: the deepest does not say how much memory this takes.
        positions, position = np.unique(self.windows.rows["position"].to_numpy(), return_inverse=True)
        clicked = self.windows.rows["clicked"].to_numpy(zero_copy_only=False).astype(bool)
        user, width = self.windows.user[self.windows.search], len(positions)
        twice = np.concatenate([position, position[clicked] + width])
        features = sums(np.concatenate([user, user[clicked]]), twice, self.users)
        features.resize((self.users, 2 * width))
        outcome = self.permutations.test(features, _click_rate_change)
        counts = self.permutations.by_window(features)
        late, early = (part[width] / max(part[0], 1) for part in (counts[-1], counts[:-1].sum(axis=0)))
        finding = (
            f"the chance of a click at a position changed by {share(outcome.value)} of the usual chance; "
            f"at the first it went from {share(early)} to {share(late)}"
        )
        return DriftTest.of(
            "click rate by position", "mean relative change", outcome, self.settings.min_click_change, finding
        )

    def clicks(self) -> DriftTest:
        """Clicks a search."""
        late, early, outcome = self._rate(self._clicks_of_searches, permutation.rate_change)
        finding = f"clicks a search went from {early:.3f} to {late:.3f}"
        return DriftTest.of("clicks a search", "relative change", outcome, self.settings.min_click_change, finding)

    def abandonment(self) -> DriftTest:
        """Searches without a click."""
        late, early, outcome = self._rate(
            (self._clicks_of_searches == 0).astype(np.float32), permutation.rate_difference
        )
        finding = f"{share(late)} of the searches end without a click, {share(early)} before"
        return DriftTest.of("abandonment", "difference of shares", outcome, self.settings.min_shift, finding)

    @property
    def _clicks_of_searches(self) -> Floats:
        clicked = self.windows.rows["clicked"].to_numpy(zero_copy_only=False).astype(bool)
        return np.bincount(self.windows.search[clicked], minlength=len(self.windows.user)).astype(np.float32)

    def _rate(self, of_search: Floats, statistic: permutation.Statistic) -> tuple[float, float, Outcome]:
        """Return the rate of this and of the earlier windows, and the test of their difference."""
        both = np.stack([np.bincount(self.windows.user, of_search), np.bincount(self.windows.user)], axis=1)
        features = both.astype(np.float32)
        counts = self.permutations.by_window(features)
        late, early = (float(part[0] / part[1]) for part in (counts[-1], counts[:-1].sum(axis=0)))
        return late, early, self.permutations.test(features, statistic)


@lru_cache(maxsize=100_000)
def script(letter: str) -> str:
    """Return the script of a letter as Unicode names it: Latin, Cyrillic, Cjk, Hiragana."""
    return unicodedata.name(letter, "unknown").split()[0].split("-")[0].capitalize()


def _click_rate_change(now: Floats, before: Floats) -> Floats:
    """Mean absolute change of the click rate over positions, weighted by impressions, relative to the mean rate.

    The first half of the columns is impressions by position, the second clicks.
    """
    width = now.shape[1] // 2
    late, early = (part[:, width:] / np.maximum(part[:, :width], 1) for part in (now, before))
    shown = (now + before)[:, :width] * ((now[:, :width] > 0) & (before[:, :width] > 0))
    mean = before[:, width:].sum(axis=1) / np.maximum(before[:, :width].sum(axis=1), 1)
    change = (np.abs(late - early) * shown).sum(axis=1) / np.maximum(shown.sum(axis=1), 1)
    relative: Floats = change / np.maximum(mean, 1e-9)
    return relative
