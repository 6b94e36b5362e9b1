"""Judgments in and out: the lists and qrels that search teams, TREC and others keep, told by what they hold.

All of them hold a query, a document and a rating, in one locale. What else JUDGMENTS has (rationale, source, cycle,
panel, agreement) they cannot hold; ``read`` gives it the values of judgments that people made before the first cycle.
"""

from serm.stream.judgments.ratings import GRADES, Scale, scale
from serm.stream.judgments.reading import Imported, Quarantined, read
from serm.stream.judgments.writing import FORMATS, Format, queries_path, write

__all__ = ["FORMATS", "GRADES", "Format", "Imported", "Quarantined", "Scale", "queries_path", "read", "scale", "write"]
