"""A small workspace as publish, evolve and the demo leave it: what the report reads, without the work behind it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from report_evaluation import FAMILIES, LOCALES, QUERIES, evaluation

GATES = ("passed", "inconclusive", "passed", "failed")


def write(root: Path, cycles: int = 3) -> Path:
    """Make ``root`` a workspace with ``cycles`` cycles in its history, each with its settings under a git tag."""
    (root / ".dvc").mkdir(parents=True)
    _git(root, "init", "--quiet")
    for number in range(1, cycles + 1):
        directory = root / "history" / f"cycle-{number:04d}"
        directory.mkdir(parents=True)
        for name, value in summaries(number).items():
            (directory / f"{name}.json").write_text(json.dumps(value, sort_keys=True), encoding="utf-8")
        (root / "params.yaml").write_text(_params(number), encoding="utf-8")
        _git(root, "add", "params.yaml", "history")
        _git(root, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--message", directory.name)
        _git(root, "tag", directory.name)
    return root


def summaries(number: int) -> dict[str, Any]:
    """Return all that history holds of cycle ``number``, by file name."""
    rng = np.random.default_rng(number)
    gate = GATES[(number - 1) % len(GATES)]
    return {
        "ingest": {
            "rows_in": 300000 + 270000 * number,
            "rows_kept": 270580,
            "rows_outside_window": 29420 + 270000 * (number - 1),
            "queries": 6240,
            "locales": {locale: int(rng.integers(4000, 40000)) for locale in LOCALES[: 8 + 3 * number]},
        },
        "validate": _validation(number),
        "drift": _drift(number, rng),
        "mine": _mining(rng),
        "annotate": _panel(rng),
        "train": _training(number, rng),
        "evaluate": evaluation(number, gate, rng),
        "deploy": _canary(gate),
        "costs": _costs(rng),
        "audit": _audit(rng),
    }


def _params(number: int) -> str:
    families = "".join(f"    {name}: [{', '.join(locales)}]\n" for name, locales in FAMILIES.items())
    return (
        f'cycle:\n  number: {number}\n  start: "{2015 + 2 * number}-01-01T00:00:00Z"\n'
        f'  end: "{2017 + 2 * number}-01-01T00:00:00Z"\nevaluation:\n  families:\n{families}'
    )


def _validation(number: int) -> dict[str, Any]:
    broken = {"position is below 1": 57, "dwell_seconds without a click": 12, "event_time is missing": 0}
    return {
        "datasets": {
            "documents": {"rows_in": 15312, "rows_kept": 15312, "rows_quarantined": 0},
            "impressions": {"rows_in": 270580, "rows_kept": 270580 - 69, "rows_quarantined": 69},
        },
        "profile": [
            {
                "dataset": "impressions",
                "rule": rule,
                "severity": "warning",
                "violations": rows * number,
                "value": rows * number / 270580,
                "finding": f"{rows * number} of 270,580",
                "low": None,
                "high": 0.0,
                "setting": "",
                "passed": rows == 0,
            }
            for rule, rows in broken.items()
        ]
        + [
            {
                "dataset": "impressions",
                "rule": "volume",
                "severity": "error",
                "violations": None,
                "value": None if number == 1 else 0.9,
                "finding": "no earlier window" if number == 1 else "370.0 impressions a day, 0.90 times the median",
                "low": 0.25,
                "high": None,
                "setting": "min_volume_ratio",
                "passed": None if number == 1 else True,
            }
        ],
    }


def _drift(number: int, rng: np.random.Generator) -> dict[str, Any]:
    columns = {
        "query_length": ("wasserstein", 0.031, 0.1),
        "score": ("wasserstein", 0.052, 0.1),
        "locale": ("jensenshannon", 0.1 + 0.1 * float(rng.random()), 0.1),
        "clicked": ("jensenshannon", 0.012, 0.1),
        "query": ("abs_text_content_drift", 0.61, 0.55),
    }
    tests = _drift_tests(number)
    return {
        "decision": "evolve",
        "reasons": [f"{test['name']}: {test['finding']}" for test in tests if test["decision"] == "drift"],
        "alpha": 0.05,
        "correction": "holm",
        "tests": tests,
        "topics": [
            {
                "name": "疫苗, 口罩" if place == 0 else "vaccine, mask, booster",
                "queries": [
                    {"locale": locale, "query": query, "searches": 120 - 20 * rank}
                    for rank, (locale, query) in enumerate(QUERIES[: 5 - place])
                ],
                "before": 0.001,
                "now": 0.042 - 0.03 * place,
                "p": 0.001,
            }
            for place in range(2)
        ],
        "windows": [
            {"cycle": cycle, "users": 3000, "searches": 14000 + cycle}
            for cycle in range(max(0, number - 6), number + 1)
        ],
        "columns": {
            name: {"method": method, "distance": distance, "threshold": limit, "drifted": distance >= limit}
            for name, (method, distance, limit) in columns.items()
        },
        "sampled": {"reference": 2000, "window": 2000, "error": 0.0304},
        "searches": 27058,
        "new_query_share": 0.123,
        "expected_new_query_share": 0.031,
        "new_query_margin": 0.006,
        "new_queries": [
            {"locale": locale, "query": query, "searches": 412 - 31 * place}
            for place, (locale, query) in enumerate(QUERIES)
        ],
        "new_locales": {"nl": 0.041, "sv": 0.033},
    }


def _drift_tests(number: int) -> list[dict[str, Any]]:
    def test(name: str, decision: str, finding: str, **more: Any) -> dict[str, Any]:
        tested = {"statistic": "total variation", "value": 0.21, "p": 0.001, "adjusted_p": 0.014, "effect": 0.19}
        tested |= {"floor": 0.02, "usual": None if number == 1 else 0.08, "examples": []}
        return {"name": name, "decision": decision, "finding": finding, **tested, **more}

    rose = [{"locale": locale, "query": query, "searches": 90 - place} for place, (locale, query) in enumerate(QUERIES)]
    unsure = {"value": 0.004, "p": 0.41, "adjusted_p": 0.82, "effect": 0.001}
    untested = dict.fromkeys(("value", "p", "adjusted_p", "effect", "floor", "usual"))
    return [
        test("query embeddings", "drift", "the queries lie 0.134 from the earlier ones beyond chance", examples=rose),
        test("topics", "drift", "2 topics grew, most 疫苗, 口罩, from 0.1% to 4.2%", floor=0.005),
        test(
            "new queries",
            "drift",
            "12.3% of the searches are for queries that no earlier window has, 3.1% by chance",
            examples=[{"name": "<b>疫苗</b>", "before": 0.0, "now": 0.03}],
        ),
        test("abandonment", "quiet", "38.9% of the searches end without a click, 38.7% before", **unsure),
        test("heavy users", "quiet", "0 users beyond the usual tail made 0.0% of the clicks", **unsure),
        test("scores", "not tested", "not tested: no model version served in this and an earlier window", **untested),
    ]


def _mining(rng: np.random.Generator) -> dict[str, Any]:
    agents = ("user feedback", "click model", "model disagreement", "model uncertainty")
    return {
        "cascade": {
            "impressions": 270511,
            "pairs": 88210,
            "candidates": 41230,
            "unseen": 400,
            "scored": 4400,
            "named": 3100,
            "mined": 2500,
        },
        "scored": {"suspects": 2000, "sampled": 2000, "unseen": 400},
        "by_agent": {
            name: {"candidates": int(rng.integers(400, 1400)), "mined": int(rng.integers(300, 900))} for name in agents
        },
        "thresholds": {
            "under_scored_below": 1.5,
            "engagement": 0.4,
            "relevance": 0.31,
            "disagreement": 0.2,
            "uncertainty": 1.1,
        },
        "click_model": {
            "model": "dbn",
            "name": "dynamic Bayesian network",
            "held_out": {
                name: {
                    "impressions": 37500,
                    "log_likelihood": -9000.0,
                    "perplexity": perplexity,
                    "perplexity_by_rank": [perplexity + 0.2, *[perplexity] * 8, perplexity - 0.1],
                }
                for name, perplexity in (("pbm", 1.31), ("ubm", 1.29), ("sdbn", 1.32), ("dbn", 1.2712))
            },
            "examination": [1.0, 0.81, 0.66, 0.54, 0.45, 0.38, 0.32, 0.28, 0.24, 0.21],
            "prior": {"ones": 0.6, "zeros": 2.1},
            "log_likelihood": -12345.6,
            "traces": [[-13000.0, -12345.6], [-12900.0, -12500.1]],
            "converged": True,
        },
        "champion": "c00000000001",
    }


def _panel(rng: np.random.Generator) -> dict[str, Any]:
    def measured(accuracy: float, base: float, kappa: float | None, keep: float) -> dict[str, Any]:
        return {"accuracy": accuracy, "base_rate": base, "quadratic_kappa": kappa, "keep_rate": keep, "pairs": 768}

    kept = int(rng.integers(900, 1500))
    return {
        "panel_version": "a4ebef598ba1",
        "agreement": "dawid-skene",
        "calibration": {"pairs": 2252, "queries": 111},
        "held_out": {"pairs": 768, "queries": 37},
        "judges": {
            "encoder": measured(0.4805, 0.3854, 0.5129, 1.0) | {"within_agreement": 0.9542},
            "lexical": measured(0.4401, 0.3854, 0.4161, 0.91) | {"within_agreement": 0.959},
            "outside knowledge": measured(0.5521, 0.3854, 0.5141, 1.0) | {"within_agreement": 0.9666},
        },
        "panels": {
            "all judges": {
                "dawid-skene": measured(0.701, 0.5326, 0.8391, 0.3789),
                "unanimous": measured(0.6667, 0.6667, 0.0896, 0.2695),
            },
            "without outside knowledge": {
                "dawid-skene": measured(0.8333, 0.7963, 0.3005, 0.0703),
                "unanimous": measured(0.55, 0.465, 0.5658, 0.5208),
            },
        },
        "mined": 2500,
        "kept": kept,
        "dropped": 2500 - kept,
        "by_grade": {"0": kept - 335, "1": 81, "2": 67, "3": 187},
    }


def _training(number: int, rng: np.random.Generator) -> dict[str, Any]:
    return {
        "champion": f"c{number:011x}",
        "challenger": f"d{number:011x}",
        "pairs": {
            "new": 1039,
            "used": 9000,
            "by_source": {"panel": 1039 * number, "seed": 9000 - 1039 * number},
            "by_origin": {
                "new": {"pairs": 1039, "weight_share": 0.0831},
                "seed": {"pairs": 7961, "weight_share": 0.9169},
            },
        },
        "loss": [round(0.7 + 0.6 * 0.8**part + float(rng.normal(0, 0.01)), 4) for part in range(12)],
        "temperature": 1.2,
        "held_out_seed": {
            "pairs": 1200,
            "queries": 120,
            "champion": {"loss": 0.9123, "ndcg_10": 0.7811},
            "challenger": {"loss": 0.9034, "ndcg_10": 0.7852},
            "ndcg_10_difference": {"mean": -0.0141, "low": -0.0213, "high": -0.0042},
            "by_locale": {
                locale: {
                    "pairs": 150,
                    "queries": 15,
                    "champion": {"loss": 0.9123, "ndcg_10": 0.7811},
                    "challenger": {"loss": 0.9034, "ndcg_10": 0.7852},
                }
                for locale in LOCALES[:8]
            },
        },
    }


def _canary(gate: str) -> dict[str, Any]:
    percent = 10 if gate == "passed" else 0
    return {
        "decision": "hold",
        "reason": f"The gate was {gate}: the challenger gets {percent} % of the traffic.",
        "gate": gate,
        "traffic_percent": percent,
        "requests": 200,
        "top1_agreement": 0.885,
        "variants": {
            model: {
                "served": served,
                "shadow": 200 - served,
                "errors": 0,
                "latency_ms": {"p50": 21.4, "p95": 44.0, "p99": 61.7},
                "mean_score": 1.204,
            }
            for model, served in (("champion", 200 - 2 * percent), ("challenger", 2 * percent))
        },
    }


def _costs(rng: np.random.Generator) -> dict[str, Any]:
    spent = {"ingest": 1.2, "validate": 9.8, "drift": 12.1, "mine": 34.5, "annotate": 24.9, "train": 108.4}
    spent |= {"evaluate": 44.2, "publish": 7.7, "deploy": 13.3, "simulate": 27.1}
    return {
        step: {
            "seconds": round(seconds * float(rng.uniform(0.9, 1.1)), 2),
            "peak_memory_mb": int(rng.integers(300, 1900)),
            **({"served_p95_ms": 45.2} if step == "evaluate" else {}),
        }
        for step, seconds in spent.items()
    }


def _audit(rng: np.random.Generator) -> dict[str, Any]:
    def trust(pairs: int, **more: float) -> dict[str, Any]:
        figures = {"pairs": pairs, "keep_rate": 1.0, "accuracy": round(float(rng.uniform(0.6, 0.8)), 4), **more}
        return figures | {"base_rate": 0.55, "quadratic_kappa": 0.71, "over_rated": 0.12, "under_rated": 0.15}

    agents = ("click model", "model disagreement", "model uncertainty", "user feedback")
    return {
        "labels": trust(1100),
        "labels_by_agent": {agent: trust(300) for agent in agents},
        "labels_by_locale": {locale: trust(60) for locale in LOCALES},
        "judges": {judge: trust(2500) for judge in ("encoder", "lexical", "outside knowledge")},
        "panels": {
            "all judges": trust(2500, keep_rate=0.27),
            "without outside knowledge": trust(2500, keep_rate=0.52),
        },
        "mined": {"pairs": 2500, "wrong": 0.61},
        "mined_by_agent": {agent: {"pairs": 700, "wrong": round(float(rng.uniform(0.4, 0.8)), 4)} for agent in agents},
        "shown": {"pairs": 41230, "wrong": 0.34},
        "lift": 1.7941,
    }


def _git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True)
