"""An LLM judge: asks an endpoint about each pair, within its limits and the budget, and asks no question twice."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from serm.judging.judge import ABSTAINED, GRADES, Pairs, Votes
from serm.judging.llm import prompt
from serm.judging.llm.answer import Malformed, distribution, parse
from serm.judging.llm.budget import Budget, Exhausted, likely_input_tokens, most_input_tokens, price
from serm.judging.llm.client import Body, Client, Failed, Refused, body
from serm.judging.llm.ledger import Ledger, Reply
from serm.judging.llm.limits import Breaker, Dead, Limits
from serm.judging.llm.prompt import Message, Prompter, Question
from serm.judging.llm.vote import Opinion, Tally, unjudged
from serm.judging.retrieval import Piece, Retrieval
from serm.settings.judging import LLMSettings

LONGEST_BACKOFF = 60.0


@dataclass(frozen=True)
class Session:
    """What the LLM judges of one run share."""

    batch: str
    """Names the cycle in the ledger; caps hold for it."""
    ledger: Ledger
    budget: Budget
    prompter: Prompter
    retrieval: Retrieval

    async def question(self, pairs: Pairs, row: int) -> Question:
        """Return the question about one pair, its evidence looked up."""
        evidence = await self.retrieval.pieces(
            pairs.queries[row], pairs.locales[row], pairs.doc_ids[row], pairs.keys[row]
        )
        return Question(pairs.queries[row], pairs.locales[row], pairs.texts[row], evidence)


class LLMJudge:
    """A judge behind an endpoint."""

    def __init__(self, llm: LLMSettings, session: Session, breaker: Breaker) -> None:
        """Judges of one endpoint share its ``breaker``."""
        self.name = llm.name
        self.counts: Counter[str] = Counter()
        """Calls, cached, retries, repaired, malformed, saved (paths not drawn), input_tokens, output_tokens, cost."""
        self._llm, self._session, self._breaker = llm, session, breaker
        self._limits = Limits(llm.requests_per_minute, llm.tokens_per_minute, llm.concurrency)
        self._client = Client(llm)
        self._version = prompt.version()

    def judge(self, pairs: Pairs) -> Votes:
        """Vote on each pair, in the order of ``pairs``."""
        # Connections, locks and places belong to one event loop.
        sitting = LLMJudge(self._llm, self._session, Breaker(self._llm.patience_seconds))
        opinions, _ = asyncio.run(sitting.opinions(pairs, [0] * len(pairs)))
        self.counts.update(sitting.counts)
        return votes(opinions, self._llm.paths)

    async def opinions(self, pairs: Pairs, first_path: Sequence[int]) -> tuple[list[Opinion], list[list[Piece]]]:
        """Judge the pairs, those in front first; return an opinion and the evidence for each. Once a judge.

        Args:
            pairs: n pairs.
            first_path: [n], the number of each pair's first path; another number asks anew what is in the cache.
        """
        opinions: list[Opinion | None] = [None] * len(pairs)
        evidence: list[list[Piece]] = [[]] * len(pairs)
        rows = iter(range(len(pairs)))

        async def work() -> None:
            for row in rows:
                question = await self._session.question(pairs, row)
                evidence[row] = list(question.evidence)
                opinions[row] = await self._opinion(question, first_path[row])

        # Twice as many workers as places: while some wait for an answer, others write prompts and commit.
        workers = [asyncio.create_task(work()) for _ in range(min(2 * self._llm.concurrency, len(pairs)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await self._client.close()
        return [opinion for opinion in opinions if opinion is not None], evidence

    async def _opinion(self, question: Question, first_path: int) -> Opinion:
        tally = Tally(self._llm.paths)
        messages = self._session.prompter.messages(question)
        try:
            async with asyncio.timeout(_finite(self._session.budget.seconds_left())):
                while not tally.decided:
                    tally.add(*await self._path(messages, first_path + len(tally.grades)))
        except (Exhausted, TimeoutError) as cap:
            return self._left("budget", f"not judged: the cap on {str(cap) or 'time'} was reached.")
        except Dead as dead:
            return self._left("endpoint", f"not judged: the endpoint does not answer ({dead}).")
        except Failed as failure:
            return self._left("endpoint", f"not judged: {self._llm.attempts} attempts failed ({failure}).")
        self.counts["saved"] += self._llm.paths - len(tally.grades)
        return tally.opinion()

    def _left(self, reason: str, rationale: str) -> Opinion:
        self.counts[f"unjudged_{reason}"] += 1
        return unjudged(reason, rationale)

    async def _path(self, messages: list[Message], path: int) -> tuple[int, list[float], str]:
        """One sampled path: its grade, distribution and rationale. What stays malformed abstains."""
        try:
            reply = await self._ask(messages, path)
            try:
                answer = parse(reply.content)
            except Malformed as problem:
                again = self._session.prompter.repair(messages, reply.content, str(problem))
                reply = await self._ask(again, path)
                answer = parse(reply.content)
                self.counts["repaired"] += 1
        except Malformed as problem:
            self.counts["malformed"] += 1
            return ABSTAINED, [], f"malformed twice: {problem}."
        except Refused as refusal:
            self.counts["refused"] += 1
            return ABSTAINED, [], f"the endpoint refused: {refusal}."
        grades = distribution(answer, reply.of_tokens)
        grade = answer.label if reply.of_tokens is None else int(np.argmax(grades))
        used = f" [evidence {', '.join(map(str, answer.evidence_used))}]" if answer.evidence_used else ""
        return grade, grades, answer.rationale + used

    async def _ask(self, messages: list[Message], path: int) -> Reply:
        request = body(self._llm, messages, path)
        key = request_key(self.name, self._version, request)
        if (known := self._session.ledger.answer(key)) is not None:
            self.counts["cached"] += 1
            return known
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._llm.attempts),
            wait=_pause(self._llm.backoff_seconds),
            retry=retry_if_exception_type(Failed),
            before_sleep=lambda _: self.counts.update(["retries"]),
            reraise=True,
        )
        return await retrying(self._call, request, key)

    async def _call(self, request: Body, key: str) -> Reply:
        """Send a request once: paid for before, settled and durable after, however it ends."""
        messages: list[Message] = request["messages"]
        ledger, budget = self._session.ledger, self._session.budget
        self._breaker.check()
        most = price(self._llm, most_input_tokens(messages), self._llm.max_tokens)
        budget.reserve(most)
        reply: Reply | None = None
        status, cost, sent = "unsent", 0, False
        number = -1
        try:
            number = await ledger.start(self._session.batch, self.name, key, most)
            tokens = likely_input_tokens(messages) + self._llm.max_tokens
            async with self._limits.place(tokens), self._breaker.passage():
                status, cost, sent = "cut", most, True
                self.counts["calls"] += 1
                reply = await self._client.send(request, key, budget.seconds_left())
                status, cost = "answered", self._cost(reply, most)
                self._breaker.succeeded()
        except Failed as failure:
            status, cost = failure.status, most if failure.billed else 0
            self._limits.hold(failure.retry_after)
            if not failure.alive:
                self._breaker.failed(failure.status)
            raise
        except Refused as refusal:
            status, cost = "refused", 0
            self._breaker.failed(str(refusal))
            raise
        finally:
            budget.settle(most, cost, called=sent)
            written = ledger.finish(number, key, status, reply, cost)
        await written
        return reply

    def _cost(self, reply: Reply, most: int) -> int:
        """Count an answer's tokens and return its price; an endpoint that tells no usage is paid the most."""
        if reply.input_tokens is None or reply.output_tokens is None:
            self.counts["cost"] += most
            return most
        cost = price(self._llm, reply.input_tokens, reply.output_tokens)
        self.counts.update(input_tokens=reply.input_tokens, output_tokens=reply.output_tokens, cost=cost)
        return cost


def request_key(judge: str, version: str, request: Body) -> str:
    """Address an answer by all that it depends on: judge, prompt version, model, rubric, evidence, text and path."""
    return hashlib.sha256(json.dumps([judge, version, request], sort_keys=True).encode()).hexdigest()


def votes(opinions: Sequence[Opinion], paths: int) -> Votes:
    """Return one judge's opinions on n pairs as votes."""
    drawn = np.full((paths, len(opinions)), ABSTAINED)
    for row, opinion in enumerate(opinions):
        drawn[: len(opinion.paths), row] = opinion.paths
    return Votes(
        grades=np.array([o.grade for o in opinions], np.int64),
        distribution=np.array([o.distribution for o in opinions], np.float64).reshape(-1, GRADES),
        within_agreement=np.array([o.within_agreement for o in opinions], np.float64),
        rationales=[o.rationale for o in opinions],
        paths=drawn,
        silent=np.zeros(len(opinions), bool),
    )


def _pause(first: float) -> Callable[[RetryCallState], float]:
    """Exponential backoff with full jitter, on top of what the endpoint asked for."""
    backoff = wait_random_exponential(multiplier=first, max=LONGEST_BACKOFF)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return backoff(state) + (error.retry_after if isinstance(error, Failed) else 0.0)

    return wait


def _finite(seconds: float) -> float | None:
    return None if math.isinf(seconds) else seconds
