"""Judgments of two pairs as JSON of Quepid and Elasticsearch: 'red lamp' d1 is 3, 'lamp, red' d2 is 0."""

from __future__ import annotations

from typing import Any

CLAUSE = {"bool": {"must": [{"multi_match": {"query": "lamp, red", "fields": ["title"]}}]}}
LAMPS: dict[str, Any] = {
    "quepid's case": {
        "case_name": "shop",
        "queries": [
            {"query_text": "red lamp", "ratings": {"d1": 3}},
            {"query_text": "rug", "ratings": None},
            {"query_text": "lamp, red", "ratings": {"d2": 0}},
        ],
    },
    "quepid's ratings": {
        "queries": [{"query": "red lamp", "ratings": {"d1": 3}}, {"query": "lamp, red", "ratings": {"d2": "0"}}]
    },
    "quepid's RRE": {
        "index": "shop",
        "queries": [
            {"placeholders": {"$query": "red lamp"}, "relevant_documents": {"3": ["d1"]}},
            {"placeholders": {"$query": "lamp, red"}, "relevant_documents": {"0": ["d2"]}},
        ],
    },
    "quepid's book": {
        "query_doc_pairs": [
            {
                "query_text": "red lamp",
                "doc_id": "d1",
                "judgements": [
                    {"rating": 3.0},
                    {"rating": None, "judge_later": True},
                    {"rating": 1, "unrateable": True},
                ],
            },
            {"query_text": "lamp, red", "doc_id": "d2", "judgements": [{"rating": 0}, {"rating": 0.0}, {"rating": 2}]},
        ]
    },
    "quepid's import": {
        "ratings": [
            {"query_text": "red lamp", "doc_id": "d1", "rating": 3},
            {"query_text": "lamp, red", "doc_id": "d2", "rating": 0},
        ]
    },
    "rank_eval's request": {
        "requests": [
            {
                "id": "1",
                "request": {"query": {"match": {"title": "red lamp"}}},
                "ratings": [{"_id": "d1", "rating": 3}],
            },
            {"id": "2", "request": {"query": CLAUSE}, "ratings": [{"_id": "d2", "rating": 0}]},
        ]
    },
    "rank_eval's params": {
        "requests": [
            {"id": "1", "params": {"query_string": "red lamp", "x": "y"}, "ratings": [{"_id": "d1", "rating": 3}]},
            {"id": "2", "params": {"term": "lamp, red"}, "ratings": [{"_id": "d2", "rating": 0}]},
        ]
    },
}
