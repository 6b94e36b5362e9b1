"""What keeps the asking in bounds: rates, the breaker, the budget and the ledger."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serm.errors import UserError
from serm.judging.llm import limits
from serm.judging.llm.budget import NANO, Budget, Exhausted, likely_input_tokens, most_input_tokens
from serm.judging.llm.client import retry_after
from serm.judging.llm.ledger import Ledger
from serm.judging.llm.limits import Breaker, Dead, Limits, Window
from serm.judging.llm.reply import Reply
from serm.settings.judging import BudgetSettings


@given(st.lists(st.tuples(st.integers(1, 15), st.floats(0, 40)), min_size=1, max_size=60))
def test_no_minute_holds_more_than_the_limit(asked: list[tuple[int, float]]) -> None:
    now, taken = 0.0, []
    window = Window(10, lambda: now)
    for units, pause in asked:
        now += pause
        now += window.wait(units)
        assert window.wait(units) <= 1e-6
        window.take(units)
        taken.append((now, min(units, 10)))
    for start, _ in taken:
        assert sum(units for moment, units in taken if start <= moment < start + 60 - 1e-6) <= 10


def test_a_free_window_lets_pass_at_once() -> None:
    window = Window(3, lambda: 5.0)
    for _ in range(3):
        assert window.wait(1) == 0
        window.take(1)
    assert window.wait(1) == 60


def test_retry_after_holds_all_calls_of_a_judge() -> None:
    async def held() -> float:
        of = Limits(100, 1000, 2)
        of.hold(0.1)
        start = time.monotonic()
        async with of.slot(10):
            return time.monotonic() - start

    assert asyncio.run(held()) >= 0.1


def test_retry_after_is_seconds_or_a_date() -> None:
    in_a_while = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    assert retry_after("1.5") == 1.5
    assert 15 < retry_after(in_a_while) <= 20
    assert [retry_after(v) for v in (None, "", "soon", "-3", "nan", "inf")] == [0.0] * 6
    assert retry_after("99999") == 300


def test_the_breaker_opens_lets_one_probe_by_and_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FIRST_PAUSE", 0.01)

    async def story() -> list[int]:
        breaker, passing, most = Breaker(10.0), 0, []
        for _ in range(limits.FAILURES):
            breaker.failed("500")

        async def call() -> None:
            nonlocal passing
            async with breaker.passage():
                passing += 1
                most.append(passing)
                await asyncio.sleep(0.01)
                passing -= 1

        await asyncio.gather(*(call() for _ in range(4)))
        breaker.succeeded()
        most.append(-1)
        await asyncio.gather(*(call() for _ in range(4)))
        return most

    assert asyncio.run(story()) == [1, 1, 1, 1, -1, 1, 2, 3, 4]


def test_the_breaker_gives_up_after_the_judges_patience() -> None:
    now = 0.0
    breaker = Breaker(5.0, lambda: now)
    for _ in range(limits.FAILURES):
        breaker.check()
        breaker.failed("500")
    breaker.check()
    now = 5.1
    with pytest.raises(Dead, match="500"):
        breaker.check()


@given(
    st.integers(0, 2000),
    st.integers(0, 12),
    st.lists(st.tuples(st.integers(0, 300), st.floats(0, 1), st.integers(0, 5)), max_size=60),
)
def test_no_order_of_calls_overruns_a_cap(money: int, calls: int, asked: list[tuple[int, float, int]]) -> None:
    """Calls are reserved at once and settled later, in any order, at any price up to their reservation."""
    budget = Budget(BudgetSettings(money=money / NANO, calls=calls), 0, 0)
    flying: list[tuple[int, int]] = []
    paid = sent = refused = 0
    for most, share, place in asked:
        try:
            budget.reserve(most)
        except Exhausted:
            refused += 1
        else:
            flying.append((most, round(most * share)))
            sent += 1
        if flying and place:
            reserved, cost = flying.pop(place % len(flying))
            budget.settle(reserved, cost)
            paid += cost
        assert paid + sum(most for most, _ in flying) == budget.committed <= money
        assert sent == budget.calls <= calls
    assert refused or sent == len(asked)


def test_a_budget_goes_on_from_earlier_runs_and_names_the_cap() -> None:
    with pytest.raises(Exhausted, match="money"):
        Budget(BudgetSettings(money=1.0), NANO, 0).reserve(1)
    with pytest.raises(Exhausted, match="calls"):
        Budget(BudgetSettings(calls=5), 0, 5).reserve(0)
    now = 0.0
    budget = Budget(BudgetSettings(seconds=2), 0, 0, lambda: now)
    budget.reserve(1)
    now = 2.0
    with pytest.raises(Exhausted, match="time"):
        budget.reserve(1)


@given(st.text())
def test_an_estimate_stays_below_the_bound(text: str) -> None:
    messages = [{"role": "user", "content": text.encode("utf-8", "replace").decode()}]
    assert likely_input_tokens(messages) <= most_input_tokens(messages)


def test_a_finished_call_is_on_disk_and_a_lost_one_stays_paid_for(tmp_path: Path) -> None:
    path = tmp_path / "of" / "ledger.sqlite"

    async def calls(ledger: Ledger) -> None:
        first, noted = ledger.start("cycle-0001", "a", "k1", 100)
        await noted
        await ledger.start("cycle-0001", "a", "k2", 50)[1]
        await ledger.finish(first, "k1", "answered", Reply("{}", [0.1, 0.2, 0.3, 0.4], 10, 5), 70)
        with sqlite3.connect(path) as other:
            assert other.execute("SELECT content FROM answers").fetchall() == [("{}",)]

    ledger = Ledger(path)
    asyncio.run(calls(ledger))
    ledger.close()
    again = Ledger(path)
    assert again.answer("k1") == Reply("{}", [0.1, 0.2, 0.3, 0.4])
    assert again.answer("k2") is None
    assert again.spent("cycle-0001") == (120, 2)
    assert again.spent("cycle-0002") == (0, 0)
    with pytest.raises(UserError, match="another serm annotate is using it"):
        Ledger(path)
    again.close()


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_text("this is not a database, whatever its name says" * 100)
    with pytest.raises(UserError, match="not a ledger of SERM"):
        Ledger(path)
