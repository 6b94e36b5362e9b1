"""The first thing the page says of a cycle: did it get better, by whose word, what did it cost, what should I do?"""

from __future__ import annotations

from dataclasses import dataclass

from serm.report import loop
from serm.report.controls import EXPECTED
from serm.report.formats import count, megabytes, seconds, share, signed
from serm.report.proof import JUDGED_BY
from serm.workspace.history import Cycle


@dataclass(frozen=True)
class Answer:
    """A question, the answer in a few words, and what is to be known of it."""

    question: str
    answer: str
    details: tuple[str, ...]
    commands: tuple[str, ...] = ()
    """What to run, where that is the answer."""
    tone: str = ""
    """``better``, ``worse`` or nothing."""


def answers(cycle: Cycle) -> list[Answer]:
    """Return the four answers for ``cycle``."""
    return [_better(cycle), _whose_word(cycle), _cost(cycle), _to_do(cycle)]


def _better(cycle: Cycle) -> Answer:
    question = "Did it get better?"
    gain = loop.headline(cycle)
    if cycle.quiet:
        return Answer(question, "Nothing to learn", ("Nothing drifted, so that no challenger was trained.",))
    if gain is None:
        return Answer(question, "Not known", ("No challenger was evaluated on what users are served.",))
    said, tone = "Not shown", ""
    if gain["low"] > 0:
        said, tone = ("Yes", "better") if cycle.gate == "passed" else ("Perhaps: the gate did not pass", "")
    elif gain["high"] < 0:
        said, tone = "No, worse", "worse"
    measured = (
        f"{signed(gain['difference'])} {cycle.gate_measure} ({signed(gain['low'])} to {signed(gain['high'])}) "
        "on what users are served for held-out queries of this window."
    )
    return Answer(question, said, (measured, _beside_controls(cycle)), tone=tone)


def _beside_controls(cycle: Cycle) -> str:
    """Say whether the new labels did it, by the control that comes closest to the challenger."""
    measure = cycle.gate_measure or ""
    less = {name: cycle.get("evaluate", "controls", name, "rolling", "served", measure) for name in EXPECTED}
    known = {name: one for name, one in less.items() if one}
    if not known:
        return "Whether the new labels did it is not known: no control was trained."
    name, one = min(known.items(), key=lambda pair: pair[1]["low"])
    over = f"over {name} {signed(one['difference'])} ({signed(one['low'])} to {signed(one['high'])})"
    shown = (
        "The new labels did more than training alone" if one["low"] > 0 else "That the new labels did it is not shown"
    )
    return f"{shown}: {over}."


def _whose_word(cycle: Cycle) -> Answer:
    question = "By whose word?"
    judges = sorted(cycle.get("annotate", "judges") or {})
    kept, gold = cycle.get("annotate", "kept"), cycle.get("annotate", "gold") or {}
    if cycle.quiet or kept is None:
        return Answer(question, "Nobody's", ("Nothing was labelled.",))
    details = [f"{count(kept)} labels kept, by {', '.join(judges) or 'judges that history does not name'}."]
    if gold.get("accuracy") is not None:
        details.append(
            f"Of {count(gold['labelled'])} labels whose grade was known, {share(gold['accuracy'])} were right."
        )
    pairs = [of["pairs"] for of in (cycle.get("evaluate", "tests") or {}).values()]
    makers = sorted({JUDGED_BY.get(source, f"{source} judgments") for of in pairs for source in of})
    if makers and cycle.get("audit") is not None:
        details.append("What the test sets hold is the simulated world's own truth.")
    elif makers:
        details.append(f"What the test sets hold was judged by {', '.join(makers)}.")
    if cycle.get("annotate", "held"):
        return Answer(question, "Held: not trusted", tuple(details), tone="worse")
    panel = f"{len(judges)} judge{'s' * (len(judges) > 1)}" if judges else "A panel's"
    return Answer(question, panel, tuple(details))


def _cost(cycle: Cycle) -> Answer:
    took = loop.cost(cycle)
    details = []
    if took["longest"] is not None:
        details.append(
            f"Longest step {seconds(took['longest'])}, at most {megabytes(took['peak_memory_mb'])} of memory."
        )
    calls, money = (cycle.get("costs", "annotate", name) for name in ("llm_calls", "llm_cost"))
    if calls:
        details.append(f"{count(calls)} calls of LLM judges" + (f", {money:,.2f} in money." if money else "."))
    elif calls is not None:
        details.append("No LLM was asked.")
    answer = "Not recorded" if took["seconds"] is None else seconds(took["seconds"])
    return Answer("What did it cost?", answer, tuple(details))


def _to_do(cycle: Cycle) -> Answer:
    said, detail, commands = _DECIDED.get(cycle.users or "", _NEXT[cycle.outcome])
    details = [detail]
    waiting = cycle.get("annotate", "dropped")
    if waiting:
        details.append(f"{count(waiting)} pairs wait for people: what they grade, the next cycle learns from.")
        commands = (*commands, "serm review")
    return Answer("What should I do?", said, tuple(details), commands)


_DECIDED = {
    "running": (
        "Let users decide",
        "They see both models now: the picture is under Rollouts.",
        ("serm rollout status",),
    ),
    "promoted": ("Go on", "Users promoted the challenger: see under Rollouts by what.", ("serm advance",)),
    "rolled_back": ("Keep the champion", "It was taken back: see under Rollouts why.", ("serm advance",)),
    "inconclusive": (
        "Keep the champion",
        "Users did not tell the two apart in time: see under Rollouts.",
        ("serm advance",),
    ),
    "error": (
        "Keep the champion",
        "The rollout broke off: its last look, under Rollouts, says why.",
        ("serm advance",),
    ),
}
"""What follows from the rollout's outcome; ``serm advance`` does it."""

_NEXT: dict[str | None, tuple[str, str, tuple[str, ...]]] = {
    "passed": (
        "Let users decide",
        "Read what it lost before they see it: slices and the biggest losses, under Gate.",
        ("serm rollout plan", "serm advance"),
    ),
    "failed": ("Keep the champion", "Read which rule failed, under Gate, then go on.", ("serm advance",)),
    "inconclusive": (
        "Keep the champion",
        "These sets cannot decide: grade more test queries, or wait for another window.",
        ("serm review --tests", "serm advance"),
    ),
    "error": ("Evaluate again", "Mend what kept the server from answering first.", ("serm evaluate",)),
    "quiet": ("Nothing", "The next window is taken as soon as the log covers it.", ("serm evolve",)),
    None: ("Finish the cycle", "It was not evaluated; what is done is not done again.", ("serm evolve",)),
}
