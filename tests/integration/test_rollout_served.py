"""A whole ramp: real predictors behind a real HAProxy, simulated users who click on what they were shown, the decision.

The models have random weights, and the hidden truth is what one of them says: so that one is really better.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import serving_here
import tiny_models
from real_haproxy import Proxy

from serm import contracts, relevance
from serm.rollout import controller, traffic
from serm.rollout.traffic.haproxy import lines
from serm.settings import EngineSettings, RolloutSettings
from serm.settings.serving import PredictorSettings
from serm.worlds.simulator import Users, browse

WORDS = tiny_models.WORDS[3:]
DOCUMENTS = [" ".join(words) for words in permutations(WORDS, 3)][::5]
SETTINGS = RolloutSettings(
    steps=(20, 50), min_users=30, planned_users=150, guardrails={"abandonment": 0.3}, signals=(), min_requests=50
)
NAME, START = "cycle-0003", datetime(2026, 3, 2, tzinfo=UTC)


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """Predictors of the model that is right and of one that says the opposite, by name."""
    root = tmp_path_factory.mktemp("models")
    tiny_models.save(root / "right", root / "base", 0)
    model = relevance.load(root / "right")
    assert isinstance(model, relevance.RelevanceModel)
    model.residual.head.weight.data *= -1
    model.save(root / "wrong")
    settings = PredictorSettings()
    with (
        serving_here.serving({"relevance": root / "right"}, settings) as right,
        serving_here.serving({"relevance": root / "wrong"}, settings) as wrong,
    ):
        yield {name: int(client.base_url.port or 0) for name, client in (("right", right), ("wrong", wrong))}


def scores(client: httpx.Client, query: str, user: str = "") -> tuple[np.ndarray, str]:
    pairs = [{"query": query, "document": document} for document in DOCUMENTS]
    headers = {"x-user-id": user}
    answer = client.post("/v1/models/relevance:predict", json={"instances": pairs}, headers=headers)
    assert answer.status_code == 200, answer.text
    return np.array([one["score"] for one in answer.json()["predictions"]]), answer.headers.get("x-serm-group", "")


@pytest.fixture(scope="module")
def truth(ports: dict[str, int]) -> dict[str, np.ndarray]:
    """Query -> the documents' hidden grades: a few are good."""
    grades = np.array([3, 3, 2, 2, 1, 1, *[0] * (len(DOCUMENTS) - 6)])
    with httpx.Client(base_url=f"http://127.0.0.1:{ports['right']}") as client:
        return {word: grades[np.argsort(np.argsort(-scores(client, word)[0]))] for word in WORDS}


@pytest.mark.parametrize("better", [True, False], ids=["a better challenger", "a worse one"])
def test_users_promote_what_serves_them_better_and_take_back_what_does_not(
    better: bool,
    ports: dict[str, int],
    truth: dict[str, np.ndarray],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    champion, challenger = ("wrong", "right") if better else ("right", "wrong")
    proxy = Proxy(tmp_path, ports[champion], ports[challenger])
    request.addfinalizer(proxy.kill)
    proxy.map.write_text(lines(NAME, 0))
    proxy.start()
    random, rows, log = np.random.default_rng(4), [], tmp_path / "log"
    with traffic.connect("haproxy", proxy.options, "", "") as backend, httpx.Client(base_url=proxy.url) as client:
        found = controller.start(tmp_path / "rollout", NAME, SETTINGS, backend, START)
        for day in range(8):
            for number in range(240):
                at = START + timedelta(days=day, minutes=number)
                rows += search(client, truth, f"day-{day}-user-{number}", at, random)
            contracts.write(pa.Table.from_pylist(rows, contracts.IMPRESSIONS), log, contracts.IMPRESSIONS)
            proxy.kill()  # and it comes back with the share that was in force
            proxy.start()
            at = START + timedelta(days=day + 1)
            engine = EngineSettings(threads=1, memory_gb=1)
            found = controller.step(tmp_path / "rollout", NAME, log, engine, backend, at).record
            if found.outcome != "running":
                break
        assert found.outcome == ("promoted" if better else "rolled_back"), found.decisions[-1]
        assert backend.read().percent == (100 if better else 0)


def search(
    client: httpx.Client, truth: dict[str, np.ndarray], user: str, at: datetime, random: np.random.Generator
) -> list[dict[str, Any]]:
    """Ask as a user, look at the first ten, and return the log's rows."""
    query = str(random.choice(WORDS))
    given, group = scores(client, query, user)
    order = np.argsort(-given)[:10]
    did = browse(truth[query][order][None, :], Users(), random)
    shared = {"event_time": at, "query_id": user, "session_id": user, "user_id": user, "locale": "en", "query": query}
    return [
        {
            **shared,
            "doc_id": f"d{document}",
            "position": rank + 1,
            "clicked": bool(did.clicked[0, rank]),
            "dwell_seconds": float(did.dwell[0, rank]) if did.clicked[0, rank] else None,
            "negative_feedback": bool(did.disliked[0, rank]),
            "score": float(given[document]),
            "variant": group,
        }
        for rank, document in enumerate(order)
    ]
