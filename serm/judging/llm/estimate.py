"""What a batch will cost before a call is made: calls, tokens and money by judge."""

from __future__ import annotations

import asyncio
from pathlib import Path

from serm.judging.batch import Batch
from serm.judging.llm import prompt
from serm.judging.llm.answer import better_format, response_format
from serm.judging.llm.ask import session
from serm.judging.llm.budget import NANO, likely_input_tokens, price
from serm.judging.llm.client import body
from serm.judging.llm.judge import Session, request_key
from serm.judging.llm.ledger import Ledger
from serm.judging.llm.plan import FRESH, Checks, Plan
from serm.judging.llm.prompt import Message
from serm.judging.llm.spelling import Body
from serm.settings import Settings
from serm.settings.judging import LLMSettings, TrustSettings

Estimate = dict[str, int | float]
LIKELY_OUTPUT = 0.5
"""Of ``max_tokens``: the tokens that an answer is taken to have."""


def estimate(mined: Path, validated: Path, judgments: Path, knowledge: Path, settings: Settings) -> dict[str, Estimate]:
    """Estimate what the LLM judges of ``annotate`` will be asked, without a call to them.

    A pair needs between ``paths // 2 + 1`` (all paths agree) and ``paths`` calls; what the ledger already answers
    costs nothing, and repairs and retries are not foreseen. Input tokens are taken as one for three bytes of UTF-8,
    output tokens as half of ``max_tokens``.

    Args:
        mined: as in ``annotate``, like the following.
        validated: the catalogue.
        judgments: all judgments.
        knowledge: the outside knowledge.
        settings: ``judging`` and ``cycle.number`` are used.

    Returns:
        By judge: ``questions`` (pairs, gold, canaries and repeats), ``comparisons``, ``cached`` calls, and ``calls``,
        ``input_tokens``, ``output_tokens`` and ``cost``, each as ``_fewest`` and ``_most``.

    Raises:
        UserError: as ``annotate``.
    """
    if not settings.judging.llms:
        return {}
    batch = Batch.read(mined, validated, judgments, knowledge, settings)
    ledger = Ledger(settings.judging.ledger)
    try:
        return asyncio.run(_all(batch, ledger, settings))
    finally:
        ledger.close()


async def _all(batch: Batch, ledger: Ledger, settings: Settings) -> dict[str, Estimate]:
    shared, checks = session(batch, ledger, settings.judging)
    trust = settings.judging.trust
    return {llm.name: await _one(llm, batch, checks, shared, trust) for llm in settings.judging.llms}


async def _one(llm: LLMSettings, batch: Batch, checks: Checks, shared: Session, trust: TrustSettings) -> Estimate:
    plan = Plan.of(batch, checks, shared.ledger.earlier_grades(llm.name, shared.batch), trust)
    version, fewest = prompt.version(), llm.paths // 2 + 1
    calls = {"fewest": 0, "most": 0}
    tokens = {"fewest": 0, "most": 0}
    cached = 0
    form = response_format(llm.criteria)

    def known(messages: list[Message], path: int, form: Body) -> bool:
        return shared.ledger.answer(request_key(llm.name, version, body(llm, messages, path, form))) is not None

    for row, first in enumerate(plan.first_path):
        messages = shared.prompter.messages(await shared.question(plan.pairs, row), llm.criteria)
        missing = [path for path in range(llm.paths) if not known(messages, first + path, form)]
        cached += llm.paths - len(missing)
        for which, count in (("fewest", sum(path < fewest for path in missing)), ("most", len(missing))):
            calls[which] += count
            tokens[which] += count * likely_input_tokens(messages)
    couples = plan.couples(batch, llm.comparisons)
    for couple in couples.rows:
        for row, other in (couple, couple[::-1]):
            messages = shared.prompter.comparison(couples.pairs, row, other)
            there = known(messages, FRESH * batch.cycle, better_format())
            cached += there
            for which in calls:
                calls[which] += not there
                tokens[which] += (not there) * likely_input_tokens(messages)
    told: Estimate = {"questions": len(plan.pairs), "comparisons": 2 * len(couples.rows), "cached": cached}
    for which in calls:
        output = round(calls[which] * llm.max_tokens * LIKELY_OUTPUT)
        told[f"calls_{which}"] = calls[which]
        told[f"input_tokens_{which}"] = tokens[which]
        told[f"output_tokens_{which}"] = output
        told[f"cost_{which}"] = round(price(llm, tokens[which], output) / NANO, 4)
    return told
