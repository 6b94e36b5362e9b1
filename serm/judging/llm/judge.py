"""An LLM judge: asks an endpoint about each pair, within its limits and the budget, and asks no question twice."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from serm.errors import UserError
from serm.judging.evidence.retrieval import Piece, Retrieval
from serm.judging.judge import ABSTAINED, Pairs, Votes
from serm.judging.llm import prompt
from serm.judging.llm.answer import (
    MOST_TEXT,
    Malformed,
    better_format,
    distribution,
    parse,
    parse_better,
    response_format,
)
from serm.judging.llm.budget import Budget, Exhausted, likely_input_tokens, most_input_tokens, price
from serm.judging.llm.client import Client, Failed, Refused, body
from serm.judging.llm.comparisons import Couples, Outcomes
from serm.judging.llm.endpoint import Endpoint
from serm.judging.llm.ledger import Ledger
from serm.judging.llm.limits import Dead, Limits
from serm.judging.llm.prompt import Message, Prompter, Question
from serm.judging.llm.reply import Reply
from serm.judging.llm.spelling import Body, Spelling
from serm.judging.llm.vote import Tally, Vote, unjudged, votes
from serm.judging.text import plain
from serm.settings.judging import LLMSettings

LONGEST_BACKOFF = 60.0
REFUSALS = 5
"""Refusals that stand for a refusal of all, where the endpoint has answered nothing yet."""
_LOG = logging.getLogger(__name__)
Answered = TypeVar("Answered")


class Silent(Exception):
    """A call brought no answer that can be used; the text says why."""

    def __init__(self, how: str, why: str) -> None:
        super().__init__(plain(why, MOST_TEXT))
        self.how = how
        """As it is counted: malformed or unanswered."""


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

    def __init__(self, llm: LLMSettings, session: Session, endpoint: Endpoint | None = None) -> None:
        """Judges of one endpoint share what is known of it."""
        self.name, self.criteria, self.comparisons = llm.name, llm.criteria, llm.comparisons
        self.counts: Counter[str] = Counter()
        """Calls = answered + refused + failed + cut. Of them and the cached answers came paths that are graded,
        compared or abstained (repaired; malformed, unanswered), and calls that came before another of the same path:
        asked_again (malformed), respelled; or that stopped the judge: cached + answered + refused = graded + compared +
        abstained + asked_again + respelled + stopped. Also: retries, saved (paths not drawn), uncompared (cut by a cap
        or the endpoint's failure), input_tokens, output_tokens, cost.
        """
        self._llm, self._session, self._endpoint = llm, session, endpoint or Endpoint.of(llm)
        self._answered = self._known = False
        """Whether the endpoint has answered in this run, or in this or an earlier one."""
        self._refusals = 0
        self._stopped = ""
        """Why no more calls are made; else empty."""
        self._limits = Limits(llm.requests_per_minute, llm.tokens_per_minute, llm.concurrency)
        self._client = Client(llm)
        self._version = prompt.version()

    def judge(self, pairs: Pairs) -> Votes:
        """Vote on each pair, in the order of ``pairs``."""
        # Connections, locks and places belong to one event loop.
        sitting = LLMJudge(self._llm, self._session)

        async def sit() -> list[Vote]:
            try:
                return (await sitting.ballots(pairs, [0] * len(pairs)))[0]
            finally:
                await sitting.close()

        ballots = asyncio.run(sit())
        self.counts.update(sitting.counts)
        return votes(ballots, self._llm.paths)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def ballots(self, pairs: Pairs, first_path: Sequence[int]) -> tuple[list[Vote], list[list[Piece]]]:
        """Judge the pairs, those in front first; return a vote and the evidence for each.

        Args:
            pairs: n pairs.
            first_path: [n], the number of each pair's first path; another number asks anew what is in the cache.
        """
        ballots: list[Vote | None] = [None] * len(pairs)
        evidence: list[list[Piece]] = [[]] * len(pairs)

        async def judge(row: int) -> None:
            question = await self._session.question(pairs, row)
            evidence[row] = list(question.evidence)
            ballots[row] = await self._vote(question, first_path[row])

        await self._each(len(pairs), judge)
        return [vote for vote in ballots if vote is not None], evidence

    async def compare(self, couples: Couples, path: int) -> Outcomes:
        """Ask of each couple which document is better, in both orders; ``path`` numbers the calls."""
        scores: list[tuple[float, float] | None] = [None] * len(couples.rows)

        async def compare(number: int) -> None:
            row, other = couples.rows[number]
            first = await self._better(couples.pairs, row, other, path)
            second = await self._better(couples.pairs, other, row, path)
            if first is not None and second is not None:
                scores[number] = first, 1 - second

        await self._each(len(scores), compare)
        return Outcomes(couples, scores)

    async def _each(self, count: int, work: Callable[[int], Awaitable[None]]) -> None:
        """Do the work of each number, the lowest first."""
        numbers = iter(range(count))

        async def works() -> None:
            for number in numbers:
                await work(number)

        # Twice as many workers as places: while some wait for an answer, others write prompts and commit.
        workers = [asyncio.create_task(works()) for _ in range(min(2 * self._llm.concurrency, count))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _vote(self, question: Question, first_path: int) -> Vote:
        tally = Tally(self._llm.paths)
        messages = self._session.prompter.messages(question, self._llm.criteria)
        try:
            async with asyncio.timeout(_finite(self._session.budget.seconds_left())):
                while not tally.decided:
                    tally.add(*await self._path(messages, first_path + len(tally.grades)))
        except (Exhausted, TimeoutError) as cap:
            return self._left("budget", f"not judged: the cap on {str(cap) or 'time'} was reached.")
        except Dead as dead:
            return self._left("endpoint", f"not judged: {dead}")
        except Failed as failure:
            return self._left("endpoint", f"not judged: {self._llm.attempts} attempts failed ({failure}).")
        self.counts["saved"] += self._llm.paths - len(tally.grades)
        return tally.vote()

    def _left(self, reason: str, rationale: str) -> Vote:
        self.counts[f"unjudged_{reason}"] += 1
        return unjudged(reason, rationale)

    async def _path(self, messages: list[Message], path: int) -> tuple[int, list[float], str, list[int]]:
        """One sampled path: its grade, distribution, rationale and answers. What stays malformed abstains."""
        form = response_format(self._llm.criteria)
        try:
            answer, reply = await self._answer(messages, path, form, lambda said: parse(said, self._llm.criteria))
        except Silent as silent:
            self.counts.update(["abstained", silent.how])
            return ABSTAINED, [], str(silent), []
        self.counts["graded"] += 1
        grades = distribution(answer, reply.of_tokens)
        grade = answer.label if reply.of_tokens is None else int(np.argmax(grades))
        used = [str(number) for number in answer.evidence_used if 0 < number < 100]
        said = self._client.masked(answer.rationale) + (f" [evidence {', '.join(used)}]" if used else "")
        answers = [int(answer.criteria[of.name]) for of in self._llm.criteria]
        if answers:
            said += " [" + ", ".join(f"{of.name} {n}" for of, n in zip(self._llm.criteria, answers, strict=True)) + "]"
        return grade, grades, said, answers

    async def _better(self, pairs: Pairs, row: int, other: int, path: int) -> float | None:
        """Ask whether one pair's document, shown first, is better than another's: 1, 0, or 0.5; None: unanswered."""
        messages = self._session.prompter.comparison(pairs, row, other)
        try:
            async with asyncio.timeout(_finite(self._session.budget.seconds_left())):
                answer, _ = await self._answer(messages, path, better_format(), parse_better)
        except Silent as silent:
            self.counts.update(["abstained", silent.how])
            return None
        except (Exhausted, TimeoutError, Dead, Failed):
            self.counts["uncompared"] += 1
            return None
        self.counts["compared"] += 1
        return answer.score

    async def _answer(
        self, messages: list[Message], path: int, form: Body, read: Callable[[str], Answered]
    ) -> tuple[Answered, Reply]:
        """Ask, once more where the answer is malformed, and return what ``read`` makes of it.

        Raises:
            Silent: no answer that can be read came.
        """
        try:
            reply = await self._ask(messages, path, form)
            try:
                return read(reply.content), reply
            except Malformed as problem:
                if reply.problem:
                    raise Silent("unanswered", reply.problem) from problem
                self.counts["asked_again"] += 1
                again = self._session.prompter.repair(messages, reply.content, str(problem))
                reply = await self._ask(again, path, form)
                answer = read(reply.content)
                self.counts["repaired"] += 1
                return answer, reply
        except Malformed as problem:
            raise Silent("malformed", f"malformed twice: {reply.problem or f'{problem}.'}") from problem
        except Refused as refusal:
            raise Silent("unanswered", f"the endpoint refused: {refusal}.") from refusal

    async def _ask(self, messages: list[Message], path: int, form: Body) -> Reply:
        request = body(self._llm, messages, path, form)
        key = request_key(self.name, self._version, request)
        if (known := self._session.ledger.answer(key)) is not None:
            self.counts["cached"] += 1
            self._known = True
            return known
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._llm.attempts),
            wait=_pause(self._llm.backoff_seconds),
            retry=retry_if_exception_type(Failed),
            before_sleep=lambda _: self.counts.update(["retries"]),
            reraise=True,
        )
        return await retrying(self._in_turn, request, key)

    async def _in_turn(self, request: Body, key: str) -> Reply:
        """Send a request once; the first to an endpoint goes alone, so that what it teaches is learnt once."""
        if not self._endpoint.met:
            async with self._endpoint.first:
                if not self._endpoint.met:
                    return await self._spelled(request, key)
        return await self._spelled(request, key)

    async def _spelled(self, request: Body, key: str) -> Reply:
        """Send a request as its endpoint wants it spelled, found out where it refuses a field by name."""
        spelling = self._endpoint.spelling
        while True:
            try:
                reply = await self._call(request, key, spelling)
            except Refused as refusal:
                other = None if refusal.spent or refusal.of_input else spelling.without(refusal.said)
                if other is None:
                    raise self._meant(refusal) from refusal
                self.counts["respelled"] += 1
                spelling = other
            else:
                self._endpoint.learn(spelling, self.name)
                self._answered = self._known = True
                return reply

    def _meant(self, refusal: Refused) -> Exception:
        """Tell a refusal of one input from one of all, of which the first of all is the user's mistake."""
        where = f"judge {self.name}: {self._llm.base_url}"
        if refusal.spent or (refusal.closed and self._answered):
            if not self._stopped:
                self._stopped = f"the endpoint takes no more calls ({refusal})."
                _LOG.warning("serm: %s takes no more calls (%s); its other pairs stay unjudged.", where, refusal)
            self.counts["stopped"] += 1
            return Dead(self._stopped)
        if refusal.closed:
            fix = "check base_url, model and the key in params.yaml's judging.llms."
            return UserError(f"{where} answers {refusal}; {fix}")
        self._refusals += not (self._known or refusal.of_input)
        if self._refusals >= REFUSALS and not self._known:
            fix = "check model, response_format, token_limit, seed, logprobs and temperature"
            return UserError(f"{where} refused {REFUSALS} requests and answered none ({refusal}); {fix} there.")
        return refusal

    def _check(self) -> None:
        if self._stopped:
            raise Dead(self._stopped)

    async def _call(self, request: Body, key: str, spelling: Spelling) -> Reply:
        """Send a request once: paid for before, settled and durable after, however it ends."""
        messages: list[Message] = request["messages"]
        ledger, budget, endpoint = self._session.ledger, self._session.budget, self._endpoint
        self._check()
        endpoint.breaker.check()
        most = price(self._llm, most_input_tokens(messages), self._llm.max_tokens)
        budget.reserve(most)
        reply: Reply | None = None
        status, outcome, cost, went = "unsent", "cut", 0, False

        def sent() -> None:
            nonlocal status, cost, went
            self.counts["calls"] += not went
            status, cost, went = "cut", most, True

        number, noted = ledger.start(self._session.batch, self.name, key, most)
        try:
            await noted
            tokens = likely_input_tokens(messages) + self._llm.max_tokens
            async with self._limits.slot(tokens), endpoint.breaker.passage():
                self._check()
                spelled = spelling.spell(request)
                name = key if spelled == request else request_key(self.name, key, spelled)
                reply = await self._client.send(spelled, name, budget.seconds_left(), sent)
                status, outcome, cost = "answered", "answered", self._cost(reply, most)
                endpoint.breaker.succeeded()
        except Failed as failure:
            status, outcome = failure.status if went else f"unsent: {failure}", "failed"
            cost = most if failure.billed and went else 0
            self._limits.hold(failure.retry_after)
            endpoint.breaker.failed(failure.status, busy=failure.busy)
            raise
        except Refused as refusal:
            status, outcome, cost = f"refused: {refusal}", "refused", 0
            endpoint.breaker.succeeded()
            raise
        finally:
            endpoint.met |= outcome != "refused"
            if went:
                self.counts[outcome] += 1
            budget.settle(most, cost, called=went)
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


def _pause(first: float) -> Callable[[RetryCallState], float]:
    """Exponential backoff with full jitter, on top of what the endpoint asked for."""
    backoff = wait_random_exponential(multiplier=first, max=LONGEST_BACKOFF)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return backoff(state) + (error.retry_after if isinstance(error, Failed) else 0.0)

    return wait


def _finite(seconds: float) -> float | None:
    return None if math.isinf(seconds) else seconds
