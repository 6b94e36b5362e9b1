"""A panel's version: a hash of all that its labels depend on."""

from __future__ import annotations

import hashlib

from serm import entry_points
from serm.judging.batch import Batch
from serm.judging.llm import prompt
from serm.settings import JudgingSettings, Settings

_SHOWN = {"rubric", "explained_examples"}
#: What of ``judging`` makes no other panel: how it is asked, what it may cost, and how it is checked.
_BESIDES = {"offline", "llms", "budget", "trust", "ledger", "search", "max_document_chars"}
_BESIDES |= {"evidence_documents", "evidence_texts"} | _SHOWN
_LLM = {"name", "model", "temperature", "paths", "max_tokens", "logprobs", "criteria", "comparisons"}


_PAIR = ["query", "locale", "doc_id"]


def panel_version(batch: Batch, settings: Settings) -> str:
    """Hash (12 hex digits) what the judges depend on: settings, encoder, click model, prompts, seed, knowledge.

    Of packages that bring judges, their versions.
    """
    digest = hashlib.sha256(settings.judging.model_dump_json(exclude=_BESIDES).encode())
    if settings.judging.llms:
        digest.update(_of_llms(settings.judging).encode())
        for row in zip(*batch.reviewed.select([*_PAIR, "grade", "rationale"]).to_pydict().values(), strict=True):
            digest.update(repr(row).encode())
    if settings.judging.judges:
        digest.update(repr(entry_points.versions("serm.judges", settings.judging.judges)).encode())
    digest.update(settings.relevance.encoder.encode())
    digest.update(batch.click_settings.encode())
    for table in (batch.seed.select([*_PAIR, "grade"]), batch.knowledge):
        for row in zip(*table.to_pydict().values(), strict=True):
            digest.update(repr(row).encode())
    return digest.hexdigest()[:12]


def _of_llms(judging: JudgingSettings) -> str:
    shown = {"offline", "max_document_chars", "evidence_documents", "evidence_texts"} | _SHOWN
    evidence = judging.model_dump(include=shown)
    return repr([prompt.version(), evidence, [llm.model_dump(include=_LLM) for llm in judging.llms]])
