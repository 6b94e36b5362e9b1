"""The transformer takes up an experiment that a ConfigMap's volume brings, as the kubelet does: by changing a link."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from serm.serving.transformer import application
from serm.serving.transformer.application import Transformer
from serm.serving.transformer.predictors import Predictor
from serm.serving.transformer.querylog import QueryLog
from serm.settings.serving import TransformerSettings

SERVED = ("champion", "challenger")


def mount(volume: Path, version: str, text: str) -> None:
    """Write the volume as the kubelet does: a directory a version, and one link that leads to the newest."""
    (volume / version).mkdir(parents=True)
    (volume / version / "experiment.yaml").write_text(text, encoding="utf-8")
    (volume / "new").symlink_to(version)
    (volume / "new").rename(volume / "..data")
    if not (volume / "experiment.yaml").is_symlink():
        (volume / "experiment.yaml").symlink_to("..data/experiment.yaml")


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


def test_a_share_that_the_rollout_sets_reaches_the_transformer_without_a_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(application, "LOOK_SECONDS", 0.01)
    mount(tmp_path / "volume", "1", "{name: none, percent: 0}")
    settings = TransformerSettings()
    log = QueryLog(tmp_path / "log", settings)

    async def run() -> None:
        client = httpx.AsyncClient()
        predictors = {name: Predictor("http://127.0.0.1:9/v1/models/m", client, client) for name in SERVED}
        made = Transformer(predictors, log, b"k" * 16, settings, ramp=tmp_path / "volume/experiment.yaml")
        made.begin()
        assert made._ramp is not None
        assert made._ramp.percent == 0
        mount(tmp_path / "volume", "2", "{name: cycle-0003, percent: 25}")
        await until(lambda: made._ramp is not None and made._ramp.percent == 25)
        assert made._ramp.name == "cycle-0003"
        mount(tmp_path / "volume", "3", "{name: cycle-0003, percent: 250}")
        await until(lambda: "stays as it was" in caplog.text)
        assert made._ramp.percent == 25
        mount(tmp_path / "volume", "4", "{name: cycle-0003, percent: 0}")
        await until(lambda: made._ramp is not None and made._ramp.percent == 0)
        assert caplog.text.count("stays as it was") == 1

    try:
        asyncio.run(run())
    finally:
        log.close()


def test_a_gateway_before_both_models_is_told_which_one_is_asked_whatever_the_client_says(tmp_path: Path) -> None:
    """One URL for both, behind a route that goes by the header (docs/rollout.md)."""
    settings = TransformerSettings()
    log = QueryLog(tmp_path / "log", settings)
    (tmp_path / "experiment.yaml").write_text("{name: cycle-0003, percent: 50}")

    def gateway(request: httpx.Request) -> httpx.Response:
        who = request.headers["x-serm-group"]
        return httpx.Response(200, json={"predictions": [{"score": 1.5}], "model_version": who})

    async def run() -> None:
        client = httpx.AsyncClient(transport=httpx.MockTransport(gateway))
        predictors = {name: Predictor("http://gateway/v1/models/m", client, client) for name in SERVED}
        made = Transformer(predictors, log, b"k" * 16, settings, ramp=tmp_path / "experiment.yaml")
        seen = set()
        for user in range(40):
            asked = {"query": "cat", "client_id": f"u{user}", "documents": [{"id": "d", "text": "dog"}]}
            answer = await made._ranked(json.dumps(asked).encode(), {"x-serm-group": "challenger"})
            told = json.loads(answer.body)
            assert told["model_version"] == told["ranked_by"]
            assert told["ranked_by"] == ("challenger" if told["variant"] == "challenger" else "champion")
            seen.add(told["variant"])
        assert seen == {"challenger", "control"}

    try:
        asyncio.run(run())
    finally:
        log.close()
