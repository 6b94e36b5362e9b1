"""What one LLM judge is asked in a batch, in which order: what checks it first, then the mined pairs by priority."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from serm.judging import trust
from serm.judging.batch import Batch
from serm.judging.judge import Integers, Pairs
from serm.judging.llm.comparisons import Couples
from serm.judging.llm.prompt import Example
from serm.settings.judging import TrustSettings

T = TypeVar("T", np.float64, np.int64)
FRESH = 1000
"""Checks take their path numbers from ``FRESH * cycle`` on, so that no cycle answers them out of an earlier cache."""
EXAMPLE_GRADES = (3, 2, 1, 0)


@dataclass(frozen=True)
class Checks:
    """What every LLM judge of a batch is checked with."""

    gold: Integers
    """Rows of the batch's known pairs: held-out seed judgments."""
    anchors: Integers
    """Rows of the known pairs that tie the label model to the truth; no prompt shows their queries."""
    canaries: Pairs
    attacks: list[str]
    clean: Integers
    """For each canary, the place in ``gold`` of the document that it was made of."""
    padded: Pairs
    bare: Integers
    """For each padded document, its place in ``gold``."""
    reviewed: Pairs
    """Pairs that people graded, whose queries no prompt shows."""
    reviewed_grades: Integers

    @staticmethod
    def of(batch: Batch, shown: set[str], settings: TrustSettings) -> Checks:
        """Draw the checks; ``shown`` are the queries of the prompts' examples."""
        salt = f"cycle {batch.cycle}"
        chosen = trust.draw_gold(batch.known, batch.grades, np.flatnonzero(batch.unseen), settings.gold_pairs, salt)
        unshown = np.array([query not in shown for query in batch.known.queries], bool)
        others = np.flatnonzero(~batch.unseen & unshown)
        anchors = trust.draw_gold(batch.known, batch.grades, others, settings.gold_pairs, salt)
        bad = np.flatnonzero(batch.grades[chosen] == 0)
        planted, attacks, rows = trust.plant_canaries(batch.known.take(chosen[bad]), settings.canaries)
        rest = np.flatnonzero(batch.grades[chosen] < EXAMPLE_GRADES[0])  # the best grade cannot rise
        bare = np.searchsorted(chosen, trust.draw_gold(batch.known, batch.grades, chosen[rest], settings.padded, "pad"))
        pairs, grades = batch.catalogue.pairs(batch.reviewed), batch.reviewed["grade"].to_numpy().astype(np.int64)
        free = np.flatnonzero([query not in shown for query in pairs.queries])
        people = trust.draw_gold(pairs, grades, free, settings.gold_pairs, "reviewed")
        return Checks(
            chosen,
            anchors,
            planted,
            attacks,
            bad[rows] if len(bad) else rows,
            trust.pad(batch.known.take(chosen[bare]), settings.padded),
            bare,
            pairs.take(people),
            grades[people],
        )


@dataclass(frozen=True)
class Plan:
    """All pairs that one judge is asked about: what checks and calibrates it, then mined pairs."""

    pairs: Pairs
    first_path: list[int]
    parts: dict[str, slice]
    order: Integers
    """The mined rows, in the order they are asked in."""
    repeated: Integers
    """The grades that the judge gave the repeated pairs before."""

    @staticmethod
    def of(batch: Batch, checks: Checks, earlier: Mapping[str, int], settings: TrustSettings) -> Plan:
        """Plan a judge's questions; ``earlier`` are its grades in earlier batches, by ``pair_id``."""
        order = np.argsort(-batch.priority, kind="stable")
        repeats, repeated = _repeats(batch, earlier, settings.repeats)
        parts = {
            "gold": batch.known.take(checks.gold),
            "anchors": batch.known.take(checks.anchors),
            "canaries": checks.canaries,
            "padded": checks.padded,
            "repeats": repeats,
            "reviewed": checks.reviewed,
            "mined": batch.pairs.take(order),
        }
        ends = np.cumsum([len(part) for part in parts.values()]).tolist()
        slices = {n: slice(end - len(p), end) for (n, p), end in zip(parts.items(), ends, strict=True)}
        fresh = slices["reviewed"].start  # what comes after may be answered out of the cache
        first = [FRESH * batch.cycle] * fresh + [0] * (len(checks.reviewed) + len(batch.pairs))
        return Plan(Pairs.joined(list(parts.values())), first, slices, order, repeated)

    def couples(self, batch: Batch, most: int) -> Couples:
        """Return the comparisons of each pair with up to ``most`` mined or known pairs of its query."""
        return Couples.of(self.pairs, Pairs.joined([batch.pairs, batch.known]), most)


def pair_id(pairs: Pairs, row: int) -> str:
    """Name a pair by query, locale, document and a hash of the document's text, as JSON."""
    digest = hashlib.sha256(pairs.texts[row].encode("utf-8", "replace")).hexdigest()[:16]
    return json.dumps([pairs.queries[row], pairs.locales[row], pairs.doc_ids[row], digest], ensure_ascii=False)


def examples(batch: Batch, explained: int) -> dict[str, list[Example]]:
    """Choose one seed judgment a grade for each locale, of queries that judges are calibrated on.

    Before them stand up to ``explained`` grades that people explained, the locale's own first. Locales without seed
    judgments get those of the locale that has most, under ``""``.
    """
    chosen = _of_seed(batch)
    told = explanations(batch)
    of = np.array([locale for locale, _ in told], dtype=object)
    shown = {}
    for locale in sorted({*chosen, *of.tolist()}):
        order = np.argsort(of != locale, kind="stable")[:explained].tolist()
        shown[locale] = [told[row][1] for row in order] + chosen.get(locale, chosen.get("", []))
    return shown


def explanations(batch: Batch) -> list[tuple[str, Example]]:
    """Return locale and example of the grades that people explained, each grade in its turn, in a fixed order."""
    noted = batch.reviewed.filter(pc.not_equal(pc.utf8_trim_whitespace(batch.reviewed["rationale"]), ""))
    pairs, grades = batch.catalogue.pairs(noted), noted["grade"].to_numpy().astype(np.int64)
    notes = noted["rationale"].to_pylist()
    turns = np.zeros(len(grades), np.int64)
    for grade in EXAMPLE_GRADES:
        of = np.flatnonzero(grades == grade).tolist()
        order = sorted(of, key=lambda row: hashlib.sha256(repr((pairs.queries[row], notes[row])).encode()).digest())
        turns[order] = np.arange(len(order))
    rows = np.lexsort((-grades, turns)).tolist()
    return [
        (pairs.locales[row], Example(pairs.queries[row], pairs.texts[row], int(grades[row]), notes[row]))
        for row in rows
    ]


def _of_seed(batch: Batch) -> dict[str, list[Example]]:
    seen = np.flatnonzero(~batch.unseen)
    of = np.array(batch.known.locales)[seen]
    chosen = {str(locale): _examples(batch, seen[of == locale]) for locale in np.unique(of)}
    names, counts = np.unique(of, return_counts=True)
    return chosen | ({"": chosen[str(names[counts.argmax()])]} if len(names) else {})


def _examples(batch: Batch, rows: Integers) -> list[Example]:
    known, shown = batch.known, []
    for grade in EXAMPLE_GRADES:
        for row in trust.draw_gold(known, batch.grades, rows[batch.grades[rows] == grade], 1, "examples").tolist():
            shown.append(Example(known.queries[row], known.texts[row], grade))
    return shown


def _repeats(batch: Batch, earlier: Mapping[str, int], count: int) -> tuple[Pairs, Integers]:
    """Draw pairs that were graded before and whose document still reads the same."""
    drawn = sorted(earlier, key=lambda pair: hashlib.sha256(f"{batch.cycle}{pair}".encode()).digest())
    found: list[Pairs] = []
    grades: list[int] = []
    for pair in drawn:
        if len(found) >= count:
            break
        one = batch.pair(*json.loads(pair)[:3])
        if one is not None and pair_id(one, 0) == pair:
            found.append(one)
            grades.append(earlier[pair])
    return Pairs.joined(found), np.array(grades, np.int64)


def spread(values: NDArray[T], rows: Integers, count: int, filler: float) -> NDArray[T]:
    """Return ``count`` values, those of ``rows`` from ``values`` and else ``filler``."""
    whole = np.full((count, *values.shape[1:]), filler, values.dtype)
    whole[rows] = values
    return whole
