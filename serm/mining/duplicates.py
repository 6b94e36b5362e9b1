"""Queries that say the same: equal in their folded form, or all but equal in their trigrams."""

from __future__ import annotations

from collections.abc import Mapping

from datasketch import MinHash, MinHashLSH

from serm.pairs.text import fold

#: Characters of a gram; a query is padded with a space on either side, so that the shortest has one.
GRAM = 3

#: Queries of one locale whose trigrams have at least this Jaccard similarity say the same.
SAME = 0.8

#: Bands and rows of the MinHash index: a pair of similarity s is looked at with the chance 1 - (1 - s**4)**16, that
#: is 0.9998 at 0.8.
BANDS, ROWS = 16, 4

Query = tuple[str, str]


def canonical(shown: Mapping[Query, int]) -> dict[Query, Query]:
    """Return for each (locale, query) the one that stands for it: the most shown of those that say the same.

    Queries are taken most shown first; one that is like an earlier one stands behind it. Sources: Broder, "On the
    resemblance and containment of documents", 1997; its index is datasketch's MinHashLSH, its hits are checked.
    """
    queries = sorted(shown, key=lambda query: (-shown[query], query))
    grams = [_grams(text) for _, text in queries]
    # The locale stands before each gram, so that two locales have nothing in common.
    tokens = [[f"{locale}\t{gram}".encode() for gram in of] for (locale, _), of in zip(queries, grams, strict=True)]
    index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    stands_for: dict[Query, Query] = {}
    for number, sketch in enumerate(MinHash.generator(tokens, num_perm=BANDS * ROWS)):
        alike = (other for other in sorted(index.query(sketch)) if _jaccard(grams[number], grams[other]) >= SAME)
        first = next(alike, number)
        stands_for[queries[number]] = queries[first]
        if first == number:
            index.insert(number, sketch)
    return stands_for


def _grams(query: str) -> frozenset[str]:
    text = f" {fold(query)} "
    return frozenset(text[start : start + GRAM] for start in range(max(len(text) - GRAM + 1, 1)))


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other)
