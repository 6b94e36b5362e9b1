"""What changed in the catalogue: new documents, documents gone, other titles."""

from __future__ import annotations

import hashlib
from math import sqrt

import numpy as np
import pyarrow as pa

from serm.drift.decision import DriftTest, Examples, not_tested, share
from serm.settings import DriftSettings

EXAMPLES = 5
_NAME = "catalogue"


def compare(before: pa.Table, now: pa.Table, settings: DriftSettings) -> DriftTest:
    """Compare two CATALOGUES samples, the earlier first.

    Both hold the documents whose ids hash lowest, so below the lower of their highest hashes both are complete, and
    the documents there are a random part of the catalogues (bottom-k sketches: Cohen and Kaplan, PODC 2007). There is
    no chance in a catalogue but that of the sample, so a floor decides, and not a p.
    """
    if not len(before):
        return not_tested(_NAME, "the state has no earlier catalogue yet")
    known = [dict(zip(one["doc_id"].to_pylist(), one["title"].to_pylist(), strict=True)) for one in (before, now)]
    hashes = [{doc: draw_key(doc, settings.seed) for doc in one} for one in known]
    full = [max(one.values()) for one in hashes if len(one) >= settings.sample_documents]
    reach = min(full, default="g")  # beyond all hexadecimal digits
    old, new = ({doc: one[doc] for doc in one if of[doc] <= reach} for one, of in zip(known, hashes, strict=True))
    added, gone = sorted(new.keys() - old.keys()), sorted(old.keys() - new.keys())
    renamed = sorted(doc for doc in old.keys() & new.keys() if old[doc] != new[doc])
    size = max(len(new), 1)
    shares = [len(part) / max(len(of), 1) for part, of in ((added, new), (gone, old), (renamed, new))]
    error = 1.96 * sqrt(0.25 / size) if full else 0.0
    sampled = f" (±{error:.1%}, from a sample of {size:,})" if full else ""
    examples: Examples = [{"doc_id": doc, "title": new[doc]} for doc in _some(added)]
    examples += [{"doc_id": doc, "title": new[doc], "before": old[doc]} for doc in _some(renamed)]
    return DriftTest(
        name=_NAME,
        statistic="largest share of new, gone and renamed documents",
        value=max(shares),
        effect=max(shares),
        floor=settings.min_catalogue_change,
        finding=f"{share(shares[0])} of the documents are new, {share(shares[1])} are gone, "
        f"{share(shares[2])} have another title{sampled}",
        examples=examples,
    )


def draw_key(doc_id: str, seed: int) -> str:
    """Return a document's place in the draw, as ``sample.draw_documents`` orders them in the engine."""
    return hashlib.md5(f"{seed} {doc_id}".encode()).hexdigest()


def _some(documents: list[str]) -> list[str]:
    places = np.linspace(0, len(documents) - 1, min(EXAMPLES, len(documents))).round().astype(int)
    return [documents[i] for i in dict.fromkeys(places.tolist())]
