"""Judgments out, in the formats that other tools read; ``serm.stream.judgments.read`` reads each of them back."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa

from serm.atomic import write_json, write_text
from serm.errors import UserError
from serm.stream.judgments.ratings import GRADES

Rated = tuple[str, str, float]
"""Query, doc_id, rating."""
Format = Literal["judgment-list", "qrels", "beir", "quepid", "quepid-case", "rank-eval", "pytrec"]
FORMATS: tuple[Format, ...] = get_args(Format)
_ID = re.compile(r"q[0-9a-f]{16}")


def write(judgments: pa.Table, path: Path, ratings: Sequence[float] = GRADES, form: Format | None = None) -> None:
    """Write JUDGMENTS of one locale to ``path``, atomically.

    Args:
        judgments: of one locale.
        path: the file; formats that name queries by ids have their texts beside it (qrels) or where BEIR looks for
            them (``queries.jsonl``, above a directory ``qrels`` or beside the file).
        ratings: the rating of each grade.
        form: None: ``judgment-list`` where the name ends with .json, else ``qrels``.

    Raises:
        UserError: more than one locale, a query or doc_id that the format cannot hold, or ``queries.jsonl`` is there
            and not of SERM.
    """
    locales = sorted(set(judgments["locale"].to_pylist()))
    if len(locales) > 1:
        raise UserError(
            f"{path}: the format has no locale and the judgments have {', '.join(locales)}; write one each."
        )
    columns = (judgments[name].to_pylist() for name in ("query", "doc_id", "grade"))
    rated = [(query, doc_id, ratings[grade]) for query, doc_id, grade in sorted(zip(*columns, strict=True))]
    _WRITERS[form or ("judgment-list" if path.suffix == ".json" else "qrels")](path, rated)


def queries_path(qrels: Path) -> Path:
    """Where the queries of ``qrels`` are: a line each, id, tab, text. Qrels themselves have only ids."""
    return qrels.with_name(qrels.name + ".queries.tsv")


def _list(path: Path, rated: Sequence[Rated]) -> None:
    """OpenSearch's Search Relevance Workbench."""
    lists = [
        {"query": query, "ratings": [{"docId": doc_id, "rating": f"{rating:.3f}"} for _, doc_id, rating in group]}
        for query, group in groupby(rated, key=lambda one: one[0])
    ]
    write_json(path, {"name": path.stem, "type": "IMPORT_JUDGMENT", "judgmentRatings": lists})


def _qrels(path: Path, rated: Sequence[Rated]) -> None:
    """TREC's."""
    ids = _ids(path, rated)
    write_text(queries_path(path), "".join(f"{query_id}\t{query}\n" for query, query_id in ids.items()))
    write_text(path, "".join(f"{ids[query]} 0 {doc_id} {rating:g}\n" for query, doc_id, rating in rated))


def _beir(path: Path, rated: Sequence[Rated]) -> None:
    """BEIR's: a header and three columns, the queries' texts as JSON lines."""
    ids = _ids(path, rated)
    queries = (path.parent.parent if path.absolute().parent.name == "qrels" else path.parent) / "queries.jsonl"
    if queries.exists() and not all(_ID.fullmatch(query) for query in _beirs(queries)):
        raise UserError(f"{queries}: it is there and holds other queries; give a FILE in another directory.")
    rows = [{"_id": query_id, "text": query} for query, query_id in ids.items()]
    write_text(queries, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    lines = "".join(f"{ids[query]}\t{doc_id}\t{rating:g}\n" for query, doc_id, rating in rated)
    write_text(path, f"query-id\tcorpus-id\tscore\n{lines}")


def _beirs(queries: Path) -> list[str]:
    try:
        return [str(json.loads(line)["_id"]) for line in queries.read_text(encoding="utf-8").splitlines()]
    except (ValueError, TypeError, KeyError):
        return [""]


def _quepid(path: Path, rated: Sequence[Rated]) -> None:
    """Quepid's table of a case's ratings."""
    for query, doc_id, _ in rated:
        if {"\n", "\r"} & set(query + doc_id):
            raise UserError(f"{path}: the table cannot hold {query!r} with {doc_id!r}; mend the white space.")
    text = io.StringIO()
    table = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")  # what begins with # is no comment in quotes
    table.writerow(["query", "docid", "rating"])
    table.writerows((query, doc_id, f"{rating:g}") for query, doc_id, rating in rated)
    write_text(path, text.getvalue())


def _quepid_case(path: Path, rated: Sequence[Rated]) -> None:
    """Quepid's JSON of a case: the queries with their ratings, and nothing of how it searches."""
    queries = [
        {"query_text": query, "ratings": {doc_id: _number(rating) for _, doc_id, rating in of}}
        for query, of in groupby(rated, key=lambda one: one[0])
    ]
    write_json(path, {"case_name": path.stem, "queries": queries})


def _rank_eval(path: Path, rated: Sequence[Rated]) -> None:
    """Elasticsearch's ranking evaluation, a request body as it stands: name the index in ``_index`` and the address.

    Its template searches all fields; put your own query there.
    """
    requests = [
        {
            "id": query,
            "template_id": "search",
            "params": {"query": query},
            "ratings": [{"_index": "documents", "_id": doc_id, "rating": _number(rating)} for _, doc_id, rating in of],
        }
        for query, of in groupby(rated, key=lambda one: one[0])
    ]
    template = {"id": "search", "template": {"source": {"query": {"multi_match": {"query": "{{query}}"}}}}}
    metric = {"dcg": {"k": 10, "normalize": True}}
    write_json(path, {"templates": [template], "requests": requests, "metric": metric})


def _pytrec(path: Path, rated: Sequence[Rated]) -> None:
    """pytrec_eval's and ranx's qrels; a query is its own id."""
    found: dict[str, dict[str, Any]] = {}
    for query, doc_id, rating in rated:
        found.setdefault(query, {})[doc_id] = _number(rating)
    write_json(path, found)


def _number(rating: float) -> int | float:
    return int(rating) if float(rating).is_integer() else rating


def _ids(path: Path, rated: Sequence[Rated]) -> dict[str, str]:
    """Return query -> id. It follows from the text: a kill between two files leaves ids without text, never another's.

    Raises:
        UserError: white space in a query or document would make other rows of it.
    """
    for query, doc_id, _ in rated:
        if {"\t", "\n", "\r"} & set(query) or doc_id.split() != [doc_id]:
            raise UserError(f"{path}: qrels cannot hold {query!r} with {doc_id!r}; mend the white space.")
    return {query: f"q{hashlib.sha256(query.encode()).hexdigest()[:16]}" for query in sorted({one[0] for one in rated})}


_WRITERS: dict[Format, Callable[[Path, Sequence[Rated]], None]] = {
    "judgment-list": _list,
    "qrels": _qrels,
    "beir": _beir,
    "quepid": _quepid,
    "quepid-case": _quepid_case,
    "rank-eval": _rank_eval,
    "pytrec": _pytrec,
}
