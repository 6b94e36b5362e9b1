"""The evaluation of a cycle as its history has it, for ``report_history``."""

from __future__ import annotations

from typing import Any

import numpy as np

FAMILIES = {
    "Germanic": ["de", "en", "nl", "sv"],
    "Romance": ["es", "fr", "it", "pt"],
    "Slavic": ["pl", "ru", "uk"],
    "Asian": ["ja", "ko", "th", "vi", "zh"],
    "Indic": ["bn", "hi"],
}
LOCALES = sorted(locale for locales in FAMILIES.values() for locale in locales)
QUERIES = [
    ("zh", "疫苗"),
    ("en", "vaccine"),
    ("ko", "마스크"),
    ("en", "<script>alert('query')</script>"),
    ("hi", "नमस्ते"),
]
#: Measure -> how far its mean lies from NDCG@10's.
MEASURES = {"NDCG@1": -0.09, "NDCG@5": -0.03, "NDCG@10": 0.0, "AP": -0.05, "RR": 0.04, "P@5": -0.2}
MEASURES |= {"pairwise accuracy": 0.0}


def evaluation(number: int, gate: str, rng: np.random.Generator) -> dict[str, Any]:
    """Return evaluate.json of cycle ``number`` with the gate's result."""
    return {
        "versions": {"champion": f"c{number:011x}", "challenger": f"d{number:011x}"},
        "pairs": {"frozen": {"served": 11800, "pool": 15000}, "rolling": {"served": 9100, "pool": 11000}},
        "sets": {
            name: {
                documents: {
                    pairs: _slices(number, base, gain - lost, rng)
                    for pairs, base in (("all", 0.74), ("shared token", 0.82), ("no shared token", 0.64))
                }
                for documents, lost in (("served", 0.0), ("pool", 0.02))
            }
            for name, gain in (("rolling", 0.02), ("frozen", 0.008))
        },
        "calibration": {
            "rolling": dict.fromkeys(("served", "pool"), _calibration(0.0505, 0.0615, 0.0029, 0.0177)),
            "frozen": dict.fromkeys(("served", "pool"), _calibration(0.0445, 0.0388, -0.0097, -0.0001)),
        },
        "controls": {name: _controls(lift) for name, lift in (("replay", 0.006), ("self-training", -0.02))}
        if number > 1
        else {},
        "power": {
            of: [
                {"rule": rule, "set": name, "documents": documents, "queries": 512, "margin": margin}
                | {"deviation": deviation, "detectable": 0.0136, "needed": needed}
                for rule, name, documents, margin, needed in (
                    ("rolling_gain", "rolling", "served", 0.0, None),
                    ("frozen_loss", "frozen", "served", 0.01, 950),
                    ("pool_loss", "rolling", "pool", 0.015, 423),
                )
            ]
            for of, deviation in (("assumed", 0.11), ("measured", 0.1))
        },
        "examples": {"wins": [_example(rng, 1) for _ in range(5)], "losses": [_example(rng, -1) for _ in range(5)]},
        "gate": {"result": gate, "rules": _rules(gate)},
    }


def _slices(number: int, base: float, gain: float, rng: np.random.Generator) -> dict[str, Any]:
    sizes = {"all": 512} | {f"family:{name}": 30 * len(locales) for name, locales in FAMILIES.items()}
    sizes |= {f"locale:{name}": 29 for name in LOCALES}
    sizes |= {
        "traffic:head": 40,
        "traffic:tail": 200,
        "traffic:unseen": 272,
        "query_age:new": 300,
        "query_age:old": 212,
    }
    sizes |= {"document_age:new": 100, "document_age:old": 412}
    return {name: {"n": n, "measures": _measures(number, n, base, gain, rng)} for name, n in sizes.items()}


def _measures(number: int, n: int, base: float, gain: float, rng: np.random.Generator) -> dict[str, Any]:
    found = {}
    for measure, lift in MEASURES.items():
        champion = base + lift + 0.015 * number + float(rng.normal(0, 0.3 / n**0.5))
        difference = gain + float(rng.normal(0, 0.08 / n**0.5))
        wide, narrow = 0.45 / n**0.5, 0.2 / n**0.5
        one = {"champion": champion, "challenger": champion + difference, "difference": difference}
        one |= {
            "low": difference - narrow,
            "high": difference + narrow,
            "p": 0.001 if abs(difference) > narrow else 0.3,
        }
        one |= {
            "p_holm": min(1.0, 20 * one["p"] if n < 512 else one["p"]) if n >= 30 else None,
            "detectable": narrow * 1.43,
        }
        one |= {"champion_low": champion - wide, "champion_high": champion + wide}
        one |= {"challenger_low": champion + difference - wide, "challenger_high": champion + difference + wide}
        found[measure] = {name: value if value is None else round(value, 6) for name, value in one.items()}
    return found


def _controls(lift: float) -> dict[str, Any]:
    """Return a control that gains ``lift`` over the champion, where the challenger gains 0.02."""
    one = {"n": 512, "control": 0.74 + lift, "difference": 0.02 - lift, "low": 0.01 - lift, "high": 0.03 - lift}
    one |= {"p": 0.004, "gain": lift, "gain_low": lift - 0.01, "gain_high": lift + 0.01, "gain_p": 0.2}
    one = {name: round(value, 6) for name, value in one.items()}
    return {name: {kind: dict.fromkeys(MEASURES, one) for kind in ("served", "pool")} for name in ("rolling", "frozen")}


def _calibration(champion: float, challenger: float, low: float, high: float) -> dict[str, Any]:
    one = {"champion": champion, "challenger": challenger, "difference": round(challenger - champion, 4)}
    return one | {"low": low, "high": high, "n": 512, "pairs": 8192}


def _example(rng: np.random.Generator, sign: int) -> dict[str, Any]:
    locale, query = QUERIES[int(rng.integers(len(QUERIES)))]
    titles = [
        "syringe",
        "face with medical mask",
        "<b>pill</b>",
        "hospital",
        "microbe and a much longer name than others",
    ]

    def side(value: float) -> dict[str, Any]:
        order = rng.permutation(len(titles)).tolist()
        documents = [{"doc_id": f"{locale}-{n}", "title": titles[n], "grade": n % 4} for n in order]
        return {"value": value, "documents": documents}

    value = round(float(rng.uniform(0.4, 0.6)), 4)
    one = {"champion": side(value), "challenger": side(round(value + 0.3 * sign, 4))}
    return {"set": "rolling", "locale": locale, "query": query} | one


def _rules(gate: str) -> list[dict[str, Any]]:
    """Return all rules passed, but one with the gate's own result."""
    reasons = {
        "rolling_gain": "NDCG@10 0.7312 -> 0.7533 over 512 queries (+0.0221, 95% interval +0.0110 to +0.0330), p = "
        "0.0002: significantly better, by more than min_gain 0.",
        "frozen_loss": "NDCG@10 0.7420 -> 0.7491 over 610 queries (+0.0071, 95% interval -0.0020 to +0.0160): any loss "
        "is within max_frozen_loss 0.01.",
        "pool_loss": "NDCG@10 0.7310 -> 0.7290 over 512 queries (-0.0020, 95% interval -0.0110 to +0.0070): any loss "
        "is within max_pool_loss 0.015.",
        "slice_loss": "rolling locale:de: NDCG@10 changed by -0.0700 over 61 queries.",
        "calibration_loss": "Calibration error on the rolling set 0.0505 -> 0.0615.",
        "panel_trust": "The panel of judges reached its trust bars.",
        "model_size": "The challenger's files have 315.2 MB, max_size_mb is 1000.",
        "serving": "A server answered 20 requests of 320 pairs.",
    }
    return [
        {
            "rule": rule,
            "result": gate if rule == "slice_loss" else "passed",
            "reason": reason,
            "value": 0.0221,
            "limit": 0.03,
            "slice": "rolling locale:de" if rule == "slice_loss" else None,
        }
        for rule, reason in reasons.items()
    ]
