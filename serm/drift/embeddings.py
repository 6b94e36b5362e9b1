"""Tests on the meaning of queries: their embeddings as a whole, and the topics that grew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import log

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression

from serm.clusters import cluster
from serm.drift.decision import DriftTest, Examples, rise, share
from serm.drift.permutation import Floats, Permutations, p_value, sums
from serm.drift.sample import Windows
from serm.pairs.text import fold
from serm.pairs.tokens import words
from serm.settings import DriftSettings

Embed = Callable[[Sequence[str]], NDArray[np.float32]]

#: Random Fourier features of the kernel, and of how many queries the kernel's width is the median distance.
FREQUENCIES, WIDTH_OF = 128, 500
EXAMPLES = 5
TOPICS = 10


@dataclass(frozen=True)
class Topic:
    """Queries that mean the like, and their share of the searches, 0 to 1."""

    name: str
    """Its most typical words."""
    queries: Examples
    """The most searched: locale, query, searches (in the sample)."""
    before: float
    """The largest share that it had in an earlier window."""
    now: float
    p: float
    """The largest of those against each earlier window, each corrected over all topics."""


class Embeddings:
    """The tests of one comparison, on the searches of as many users as ask ``embedded_queries`` distinct queries."""

    def __init__(self, windows: Windows, permutations: Permutations, embed: Embed, settings: DriftSettings) -> None:
        self.permutations = permutations
        self.settings = settings
        self.queries = windows.queries
        self.user, self.query = _bounded(windows, settings)
        used, self.row = np.unique(self.query, return_inverse=True)
        self.texts = [self.queries[i] for i in used]
        self.vectors = embed([text for _, text in self.texts])
        self.users = len(windows.window)
        self.asked = sums(self.user, self.row, self.users)
        """[users, texts] how often each user asked each text."""
        self.counts = permutations.by_window(self.asked)
        """[windows, texts]"""

    def tests(self) -> tuple[list[DriftTest], list[Topic]]:
        """Return all tests, and the topics that emerged."""
        emerging, topics = self.emerging()
        return [self.distance(), self.classifier(), emerging], topics

    def distance(self) -> DriftTest:
        """Maximum mean discrepancy of the windows' embeddings (Gretton et al., JMLR 13, 2012).

        The kernel is Gaussian, its width the median distance (their section 8), and comes as random Fourier features
        (Rahimi and Recht, NIPS 2007), so that the discrepancy is one of sums over users.
        """
        rng = np.random.default_rng(self.settings.seed)
        some = self.vectors[rng.permutation(len(self.vectors))[:WIDTH_OF]]
        squared = np.maximum(2 - 2 * some @ some.T, 0)[np.triu_indices(len(some), 1)]
        width = np.sqrt(np.median(squared)) if len(squared) else 1.0
        phase = self.vectors @ rng.standard_normal((self.vectors.shape[1], FREQUENCIES)) / max(width, 1e-6)
        mapped = np.concatenate([np.cos(phase), np.sin(phase), np.ones((len(phase), 1))], axis=1).astype(np.float32)
        outcome = self.permutations.test(np.asarray(self.asked @ mapped), _discrepancy)
        beyond = float(np.sqrt(max(outcome.value - outcome.expected, 0.0)))
        rose = self._rose(self._shares(self.counts[-1]) - self._shares(self.counts[:-1].sum(axis=0)))
        finding = f"the queries lie {beyond:.3f} from the earlier ones beyond chance (0: the same, near 1: unlike)"
        if rose:
            finding += f"; most risen: {', '.join(str(one['query']) for one in rose)}"
        test = DriftTest.of("query embeddings", "squared MMD", outcome, self.settings.min_shift, finding, rose)
        return replace(test, effect=beyond)

    def classifier(self) -> DriftTest:
        """A classifier of this window against the earlier ones, judged on users it has not seen.

        Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", ICLR 2017. One half of the users trains it; the
        other half's ROC AUC is tested by exchanging users.
        """
        rng = np.random.default_rng(self.settings.seed)
        trains = rng.random(self.users) < 0.5
        ranks = self._ranks(trains, self.permutations.window == self.permutations.window.max())
        outcome = self.permutations.test(self._ranked(ranks, ~trains), _auc, seasonal=False)
        late = int(self.permutations.window.max())
        usual = [self._auc_of(trains, window) for window in range(late) if late >= 2]
        typical = self._rose(ranks * (self.counts[-1] > 1))
        finding = f"a classifier tells the queries from earlier ones with ROC AUC {outcome.value:.3f} (0.5: it cannot)"
        if outcome.value > 0.5 and typical:
            finding += f"; most typical of this window: {', '.join(str(one['query']) for one in typical)}"
        test = DriftTest.of("query classifier", "ROC AUC", outcome, self.settings.min_shift, finding, typical)
        return replace(test, usual=max(usual, default=None))

    def _auc_of(self, trains: NDArray[np.bool_], window: int) -> float:
        """Return how well a classifier tells an earlier window from the other earlier ones."""
        member, earlier = self.permutations.window == window, self.permutations.window < self.permutations.window.max()
        features = self._ranked(self._ranks(trains & earlier, member), ~trains & earlier)
        return float(_auc(features[member].sum(axis=0)[None], features[~member].sum(axis=0)[None])[0])

    def _ranks(self, trains: NDArray[np.bool_], member: NDArray[np.bool_]) -> Floats:
        """Return each text's rank, 0 to 1, by how typical of the ``member`` users it is, learnt from ``trains``."""
        counts = [np.asarray(self.asked[trains & part].sum(axis=0)).ravel() for part in (member, ~member)]
        known = [np.flatnonzero(count) for count in counts]
        if not all(map(len, known)):
            return np.zeros(len(self.texts), np.float32)
        labels = np.repeat([1, 0], [len(part) for part in known])
        weights = np.concatenate([count[part] / count.sum() for count, part in zip(counts, known, strict=True)])
        model = LogisticRegression(C=10.0, max_iter=200)
        model.fit(self.vectors[np.concatenate(known)], labels, weights * len(labels) / 2)
        ranks: Floats = rankdata(model.decision_function(self.vectors)) / len(self.texts)
        return ranks.astype(np.float32)

    def _ranked(self, ranks: Floats, users: NDArray[np.bool_]) -> Floats:
        """Return [users, 2]: the sum of the ranks of each one's searches among those of ``users``, and their count.

        Ranks are of searches here, ties in the middle, in parts of all searches.
        """
        asked = self.asked.multiply(users[:, None].astype(np.float32)).tocsr()
        count = np.asarray(asked.sum(axis=0)).ravel()
        order = np.argsort(ranks, kind="stable")
        _, tie = np.unique(ranks[order], return_inverse=True)
        of_tie = np.bincount(tie, count[order])
        middle = np.empty(len(ranks))
        middle[order] = (np.cumsum(of_tie) - of_tie / 2)[tie] / max(count.sum(), 1)
        return np.asarray(asked @ np.stack([middle, np.ones(len(ranks))], axis=1).astype(np.float32))

    def emerging(self) -> tuple[DriftTest, list[Topic]]:
        """Topics that grew: clusters of all windows' queries that have a larger share than in each earlier window.

        A topic's p is its largest over the earlier windows (an intersection-union test: Berger, Technometrics 24,
        1982), so that a window like one of them is quiet however far it lies from the others.
        """
        of_text = self._topics()
        features = csr_array(self.asked @ np.eye(of_text.max() + 1, dtype=np.float32)[of_text])
        shares = np.stack([self._shares(part) for part in self.permutations.by_window(features)])
        tested = [self._growth(features, window) for window in range(len(shares) - 1)]
        z, p = np.min([z for z, _ in tested], axis=0), np.max([p for _, p in tested], axis=0)
        now, before = shares[-1], shares[:-1].max(axis=0)
        order = np.lexsort((-z, p))
        grown = [
            self._topic(np.flatnonzero(of_text == i), float(before[i]), float(now[i]), float(p[i]))
            for i in order[:TOPICS]
            if p[i] <= self.settings.alpha and now[i] - before[i] >= self.settings.min_new_share
        ]
        grown.sort(key=lambda topic: topic.before - topic.now)
        top = order[0]
        finding = "no topic grew beyond chance"
        if grown:
            most = grown[0]
            finding = f"{len(grown)} topics grew, most {most.name}, from {share(most.before)} to {share(most.now)}"
        test = DriftTest(
            name="topics",
            statistic="growth in standard errors",
            value=float(z[top]),
            p=float(p[top]),
            effect=grown[0].now - grown[0].before if grown else float(now[top] - before[top]),
            floor=self.settings.min_new_share,
            finding=finding,
            examples=[rise(topic.name, topic.before, topic.now) for topic in grown],
        )
        return test, grown

    def _growth(self, features: csr_array, earlier: int) -> tuple[Floats, Floats]:
        """Return how far each topic grew since the window ``earlier``, in standard errors, and its p [topics].

        p is corrected over all topics by the largest growth that chance made (Westfall and Young 1993).
        """
        window = self.permutations.window
        users = np.flatnonzero((window == earlier) | (window == window.max()))
        pair = Permutations(window[users], self.settings.permutations, self.settings.seed)

        def growths(now: Floats, before: Floats) -> Floats:
            sizes = [np.maximum(part.sum(axis=1, keepdims=True), 1) for part in (now, before)]
            both = (now + before) / np.maximum((now + before).sum(axis=1, keepdims=True), 1)
            variance = np.maximum(both * (1 - both), 1e-12) * (1 / sizes[0] + 1 / sizes[1])
            grown: Floats = (now / sizes[0] - before / sizes[1]) / np.sqrt(variance)
            grown[:, 0] = 0
            return grown

        of_users = features[users]
        z = growths(pair.by_window(of_users)[-1:], pair.by_window(of_users)[earlier : earlier + 1])[0]
        chance = pair.values(of_users, lambda now, before: growths(now, before).max(axis=1))[1:]
        return z, np.array([p_value(np.append(growth, chance)) for growth in z])

    def _topics(self) -> NDArray[np.int64]:
        """Return each text's topic [texts], k-means within its locale; 0 in locales that no earlier window has.

        A new locale is news of its own, and its topics would be nothing but that.
        """
        names = np.array([locale for locale, _ in self.texts])
        topic = np.zeros(len(names), np.int64)
        known = self.counts[:-1].sum(axis=0) > 0
        for locale in np.unique(names[known]):
            rows = np.flatnonzero(names == locale)
            topic[rows] = (
                cluster(self.vectors[rows], self.settings.queries_a_topic, self.settings.seed) + topic.max() + 1
            )
        return topic

    def _topic(self, rows: NDArray[np.int64], before: float, now: float, p: float) -> Topic:
        searches = self.counts[-1][rows]
        order = rows[np.argsort(-searches, kind="stable")][:EXAMPLES]
        return Topic(self._name(rows), [self._text(i) for i in order], before, now, p)

    def _name(self, rows: NDArray[np.int64]) -> str:
        """Return the three words that stand out (class-based TF-IDF: Grootendorst, BERTopic, arXiv 2203.05794)."""
        totals: dict[str, float] = {}
        inside: dict[str, float] = {}
        members = set(rows.tolist())
        for i, (_, text) in enumerate(self.texts):
            for word in words(fold(text)):
                totals[word] = totals.get(word, 0.0) + float(self.counts[:, i].sum())
                if i in members:
                    inside[word] = inside.get(word, 0.0) + float(self.counts[-1][i])
        mean = sum(totals.values()) / max(len(totals), 1)
        weight = {word: count * log(1 + mean / totals[word]) for word, count in inside.items() if totals[word]}
        best = sorted(weight, key=lambda word: (-weight[word], word))[:3]
        return ", ".join(best) or self.texts[rows[0]][1]

    def _rose(self, by: Floats) -> Examples:
        order = np.argsort(-by, kind="stable")[:EXAMPLES]
        return [self._text(i) for i in order if by[i] > 0]

    def _text(self, i: int) -> dict[str, object]:
        locale, query = self.texts[i]
        return {"locale": locale, "query": query, "searches": int(self.counts[-1][i])}

    @staticmethod
    def _shares(counts: Floats) -> Floats:
        shares: Floats = counts / np.maximum(counts.sum(), 1)
        return shares


def _bounded(windows: Windows, settings: DriftSettings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return user and query of the searches of as many users as ask ``embedded_queries`` distinct queries.

    Users come in turn from each window, at random, so that a bound takes the same part of each.
    """
    rng = np.random.default_rng(settings.seed)
    shuffled = rng.permutation(len(windows.window))
    turn = np.empty(len(shuffled))
    for window in range(windows.window.max() + 1):
        here = shuffled[windows.window[shuffled] == window]
        turn[here] = (np.arange(len(here)) + 0.5) / len(here)
    order = np.argsort(turn[windows.user], kind="stable")
    new = np.zeros(len(order), bool)
    new[np.unique(windows.query[order], return_index=True)[1]] = True
    kept = order[np.cumsum(new) <= settings.embedded_queries]
    return windows.user[kept], windows.query[kept]


def _discrepancy(now: Floats, before: Floats) -> Floats:
    """Squared distance of the mean features; the last column is the number of searches."""
    late, early = (part[:, :-1] / np.maximum(part[:, -1:], 1) for part in (now, before))
    squared: Floats = ((late - early) ** 2).sum(axis=1) / FREQUENCIES
    return squared


def _auc(now: Floats, before: Floats) -> Floats:
    """ROC AUC from rank sums (Mann and Whitney 1947); the columns are sums of ranks in 0..1, and counts.

    With R the middle ranks of n of N searches in parts of N, AUC = (mean R - n / 2N) * N / (N - n).
    """
    n, m = now[:, 1], before[:, 1]
    mean = now[:, 0] / np.maximum(n, 1)
    auc: Floats = (mean - n / (2 * (n + m))) * (n + m) / np.maximum(m, 1)
    return auc
