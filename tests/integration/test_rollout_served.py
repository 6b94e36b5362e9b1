"""A whole ramp: real predictors behind a real HAProxy, simulated users who click on what they were shown, the decision.

The models have random weights, and the hidden truth is what one of them says: so that one is really better.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import serving_here
import tiny_models
from real_haproxy import Proxy

from serm import contracts, relevance
from serm.errors import UserError
from serm.layout import CHAMPION, CYCLE
from serm.report import ramp as pages
from serm.rollout import controller, traffic
from serm.rollout.assignment import Experiment, assign
from serm.rollout.record import Record, load
from serm.rollout.traffic.haproxy import lines
from serm.settings import EngineSettings, RolloutSettings
from serm.settings.serving import PredictorSettings
from serm.worlds import ramp
from serm.worlds.emoji import WINDOWS, EmojiWorld

WORDS = tiny_models.WORDS[3:]
DOCUMENTS = [" ".join(words) for words in permutations(WORDS, 3)][::8]
ENGINE = EngineSettings(threads=1, memory_gb=1)
RAMP = RolloutSettings(
    steps=(20, 50),
    min_users=30,
    planned_users=150,
    guardrails={"abandonment": 0.3},
    signals=(),
    max_days=9,
    watch_days=0,
    min_requests=20,
    unwatched=("latency",),
)


@contextmanager
def here(models: Mapping[str, Path]) -> Iterator[Callable[[], httpx.Client]]:
    with serving_here.serving(models, PredictorSettings()) as client:
        yield lambda: client


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model that is right, and one that says the opposite."""
    root = tmp_path_factory.mktemp("models")
    tiny_models.save(root / "right", root / "base", 0)
    model = relevance.load(root / "right")
    assert isinstance(model, relevance.RelevanceModel)
    model.residual.head.weight.data *= -1
    model.save(root / "wrong")
    return {name: root / name for name in ("right", "wrong")}


@pytest.fixture(scope="module")
def site(models: dict[str, Path]) -> ramp.Site:
    """People ask for words; a few documents are good, as the right model has it."""
    count, depth = len(WORDS), len(DOCUMENTS)
    pairs = [(query, document) for query in WORDS for document in DOCUMENTS]
    scores = relevance.load(models["right"]).score(*map(list, zip(*pairs, strict=True))).expected.reshape(count, depth)
    ranks = np.argsort(np.argsort(-scores, axis=1), axis=1)
    return ramp.Site(
        queries=np.array(WORDS),
        locales=np.repeat("en", count),
        shares=np.full(count, 1 / count),
        related=np.roll(np.arange(count), 1),
        doc_ids=np.tile([f"d{number}" for number in range(depth)], (count, 1)),
        texts=np.tile(DOCUMENTS, (count, 1)),
        grades=np.array([3, 3, 2, 2, 1, 1, *[0] * (depth - 6)])[ranks],
    )


@pytest.fixture
def roll_out(
    models: dict[str, Path], site: ramp.Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[Record]]:
    monkeypatch.setattr(ramp, "running", here)
    monkeypatch.setattr(ramp, "site", lambda *_: site)
    monkeypatch.setattr(ramp, "USERS_A_DAY", 240)
    monkeypatch.setattr(ramp, "RAMP", RAMP)

    def run(champion: str, challenger: str) -> list[Record]:
        for name, path in ((champion, CHAMPION), (challenger, CYCLE / "train/model")):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            if not (tmp_path / path).exists():
                (tmp_path / path).symlink_to(models[name])
        nothing: Any = None
        return ramp.roll_out(tmp_path, EmojiWorld(), nothing, 1, "cycle-0001", ENGINE)

    return run


def test_users_promote_what_serves_them_better_and_take_the_old_model_back(
    roll_out: Callable[..., list[Record]], tmp_path: Path
) -> None:
    promoted, back = roll_out("wrong", "right")
    assert (promoted.outcome, back.outcome) == ("promoted", "rolled_back"), (promoted.decisions, back.decisions)
    assert [stage.percent for stage in promoted.stages] == [20, 50, 100]
    assert back.stages[-1].percent == 0
    for one in (promoted, back):
        assert one == load(tmp_path / "rollout" / f"{one.experiment}.json")
        assert one.note.startswith("Simulated users")
    better, worse = (float(word) for word in promoted.note.split() if word.startswith(("0.", "1.")))
    assert better > worse + 0.1
    # Its log is the next window's: only the ramp of the cycle's own challenger, of all three groups.
    log = contracts.read(tmp_path / "log", contracts.IMPRESSIONS)
    assert set(log["variant"].to_pylist()) == {"challenger", "control", "champion"}
    assert len(set(log["model_version"].to_pylist())) == 2
    days = (promoted.decisions[-1].at - promoted.stages[0].since) / timedelta(days=1)
    assert len(log["user_id"].unique()) == 240 * days
    start = WINDOWS[1][1]
    assert min(log["event_time"].to_pylist()) >= start
    # What ended is not run again, and the page shows both.
    assert roll_out("wrong", "right") == [promoted, back]
    shown = pages.page(tmp_path / "rollout" / "cycle-0001.json", tmp_path / "ramp.html").read_text()
    assert "Simulated users" in shown
    assert json.loads((tmp_path / "rollout" / "cycle-0001.json").read_text())["outcome"] == "promoted"


def test_users_take_a_worse_challenger_back_and_a_ramp_that_was_cut_short_is_run_again(
    roll_out: Callable[..., list[Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:

        def gone(*_: Any) -> None:
            raise KeyboardInterrupt

        killed.setattr(ramp, "_day", gone)
        with pytest.raises(KeyboardInterrupt):
            roll_out("right", "wrong")
    assert load(tmp_path / "rollout" / "cycle-0001.json").outcome == "running"
    (record,) = roll_out("right", "wrong")
    assert record.outcome == "rolled_back", record.decisions[-1]
    assert not (tmp_path / "rollout" / "cycle-0001-reversed.json").exists()


class ModelServer:
    """A predictor in a process of its own, that can be killed and started again on its port."""

    def __init__(self, model: Path, log: Path) -> None:
        self._model, self._log = model, log
        self.port = 0

    def start(self) -> None:
        command = [sys.executable, "-m", "serm.serving.predictor", "--host", "127.0.0.1"]
        command += ["--http-port", str(self.port), "--model", f"relevance={self._model}"]
        with self._log.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file)
        for _ in range(1200):
            if found := re.search(r" on http://127\.0\.0\.1:(\d+)$", self._log.read_text(), re.MULTILINE):
                self.port = int(found[1])
                return
            assert self.process.poll() is None, self._log.read_text()
            time.sleep(0.05)
        raise AssertionError(self._log.read_text())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


_CUT_SHORT = """
import datetime, json, os, pathlib, signal, sys
from serm.rollout import controller, traffic
from serm.rollout.traffic.haproxy import Haproxy
from serm.settings import EngineSettings
done = Haproxy.set
Haproxy.set = lambda *given: (done(*given), os.kill(os.getpid(), signal.SIGKILL))
records, name, log, options, at = sys.argv[1:]
with traffic.connect("haproxy", json.loads(options), "", "") as backend:
    at = datetime.datetime.fromisoformat(at)
    controller.tick(pathlib.Path(records), name, pathlib.Path(log), EngineSettings(threads=1, memory_gb=1), backend, at)
"""
"""A controller that is killed once the proxy has its new share, before that is written down."""


def test_controller_server_and_proxy_killed_in_turn_during_a_ramp_lose_no_request_and_leave_no_wrong_share(
    models: dict[str, Path],
    site: ramp.Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """Users search all day, and again where the proxy itself is gone, as a search service does."""
    name, log, records = "cycle-0001", tmp_path / "log", tmp_path / "rollout"
    settings = RAMP.model_copy(update={"max_error_rise": 1.0, "watch_days": 1.0})  # a dead server's answers are errors
    challenger = ModelServer(models["right"], tmp_path / "challenger.log")
    request.addfinalizer(lambda: challenger.kill())
    challenger.start()
    answers: list[tuple[str, str, str]] = []
    strike: list[Callable[[], None]] = []
    lock = threading.Lock()

    def ask(proxy: Proxy, searches: Sequence[tuple[str, int]]) -> list[tuple[list[float], str, str]]:
        found = []
        with httpx.Client(base_url=proxy.url, timeout=60) as client:
            for user, query in searches:
                pairs = [{"query": str(site.queries[query]), "document": str(text)} for text in site.texts[query]]
                while True:
                    try:
                        answer = client.post(
                            "/v1/models/relevance:predict", json={"instances": pairs}, headers={"x-user-id": user}
                        )
                        break
                    except httpx.TransportError:
                        time.sleep(0.02)
                told = answer.raise_for_status().json()
                group, version = answer.headers["x-serm-group"], told["model_version"]
                found.append(([one["score"] for one in told["predictions"]], version, group))
                with lock:
                    answers.append((user, group, version))
                    if strike and len(answers) >= begun + 60:
                        strike.pop()()
        return found

    monkeypatch.setattr(ramp, "_ask", ask)
    monkeypatch.setattr(ramp, "USERS_A_DAY", 240)
    with serving_here.serving({"relevance": models["wrong"]}, PredictorSettings()) as champion:
        proxy = Proxy(tmp_path, champion.base_url.port or 0, challenger.port)
        request.addfinalizer(proxy.kill)
        proxy.map.write_text(lines(name, 0))
        proxy.start()
        random, start = np.random.default_rng(5), WINDOWS[1][1]
        versions = {
            one: httpx.post(
                f"http://127.0.0.1:{port}/v1/models/relevance:predict",
                json={"instances": [{"query": "a", "document": "b"}]},
            ).json()["model_version"]
            for one, port in (("champion", champion.base_url.port), ("challenger", challenger.port))
        }
        with traffic.connect("haproxy", proxy.options, "", "") as backend:
            record = controller.start(records, name, settings, backend, start)

            def tick(day: float) -> Record:
                at = start + timedelta(days=day)
                return controller.tick(records, name, log, ENGINE, backend, at).record

            def without_a_proxy() -> None:
                proxy.kill()
                with pytest.raises(UserError, match="runtime API does not answer"):
                    tick(2.5)
                proxy.start()

            shares = []
            for day in range(9):
                shares.append(record.percent)
                begun = len(answers)
                strike[:] = {1: [challenger.kill], 2: [without_a_proxy]}.get(day, [])
                rows = ramp._day(site, proxy, f"{name}-{day}", start + timedelta(days=day), random)
                contracts.write(rows, log / f"day={day}", contracts.IMPRESSIONS)
                today = answers[begun:]
                assert not strike
                assert len(rows["query_id"].unique()) == len(today)
                assert all(group == assign(user, Experiment(name), shares[-1]) for user, group, _ in today)
                by = {version for _, group, version in today if group == "challenger"}
                assert by == ({*versions.values()} if day == 1 else {versions["challenger"]})
                assert {version for _, group, version in today if group != "challenger"} <= {versions["champion"]}
                if day == 0:
                    at = (start + timedelta(days=1)).isoformat()
                    command = [sys.executable, "-c", _CUT_SHORT, *map(str, (records, name, log))]
                    cut = subprocess.run([*command, json.dumps(proxy.options), at], check=False)
                    assert cut.returncode == -signal.SIGKILL
                    assert (backend.read().percent, load(records / f"{name}.json").percent) == (50, 20)
                if day == 1:
                    challenger.start()
                    its = next(user for user, group, _ in today if group == "challenger")
                    while ask(proxy, [(its, 0)])[0][1] != versions["challenger"]:
                        time.sleep(0.1)  # until HAProxy has seen it
                record = tick(day + 1)
                assert (record.pending, record.percent) == (None, backend.read().percent)
                if record.outcome != "running":
                    break
            assert (record.outcome, backend.read().percent) == ("promoted", 100), record.decisions[-1]
            assert shares[:2] == [20, 50]
            assert shares[-1] == 100
