"""One normal form of a text: two that only differ in how they are typed or stored are the same."""

from __future__ import annotations

import unicodedata

import pyarrow as pa
import pyarrow.compute as pc

#: Fillers, joiners and variation selectors that Unicode lists as ignorable though their category is not Cf, and its
#: plane of tags.
_IGNORABLE = (0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x2065, 0x3164, *range(0xFE00, 0xFE10))
_IGNORABLE += (0xFFA0, *range(0xFFF0, 0xFFF9), *range(0xE0000, 0xE1000))
_FORMATS = (code for code in range(0x20000) if unicodedata.category(chr(code)) == "Cf")
_INVISIBLE = dict.fromkeys([*_FORMATS, *_IGNORABLE])


def fold(text: str) -> str:
    """Return ``text`` as every comparison of texts sees it: a query is respelled when its folded form is the same.

    Format characters (category Cf: zero-width ones, joiners, soft hyphens) and other ignorable ones are removed,
    compatibility forms and case are folded (Unicode 16, definition D146, with NFKC for NFKD: full width is half width,
    ß is ss), and white space is one space between words and none around them. Folding twice changes nothing more.
    """
    if text.isascii():
        return " ".join(text.lower().split())
    folded = text.translate(_INVISIBLE)
    for _ in range(2):  # casefolding undoes the normal form, and a normal form may have case again
        folded = unicodedata.normalize("NFKC", folded).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def folded(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return the folded form of each of ``texts`` [n]; each distinct text is folded once."""
    encoded = pc.dictionary_encode(pa.chunked_array([texts]) if isinstance(texts, pa.Array) else texts)
    encoded = encoded.combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # of no chunk at all
        return pa.array([], pa.string())
    distinct = pa.array([fold(text) for text in encoded.dictionary.to_pylist()], pa.string())
    return distinct.take(encoded.indices)
