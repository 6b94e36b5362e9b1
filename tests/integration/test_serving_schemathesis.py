"""Requests that schemathesis draws from the servers' own OpenAPI descriptions: right ones, and wrong ones of each kind.

Each is answered as the description says, none fails the server, and wrong ones are refused. SERM_SCHEMATHESIS says how
many requests an operation gets of each (8 by default; 2,000 were tried by hand).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks
from serving_here import serving
from transforming import save_models, transforming, write_store

from serm.serving import openapi
from serm.serving.application import RERANK
from serm.settings.serving import PredictorSettings, TransformerSettings

EXAMPLES = int(os.environ.get("SERM_SCHEMATHESIS", "8"))
DESCRIBED = {
    "predictor": openapi.of_predictor("1", RERANK, PredictorSettings()),
    "transformer": openapi.of_transformer("1", TransformerSettings()),
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, httpx.Client]]:
    root: Path = tmp_path_factory.mktemp("servers")
    models, documents = save_models(root), write_store(root)
    with serving(models, PredictorSettings(max_request_pairs=4)) as predictor:
        upstream = str(predictor.base_url).rstrip("/")
        with transforming(upstream, root / "log", documents=documents, max_documents=4) as (transformer, _, _):
            yield {"predictor": predictor, "transformer": transformer}


@pytest.fixture(scope="module")
def schemas(servers: dict[str, httpx.Client]) -> dict[str, Any]:
    return {name: schemathesis.openapi.from_url(f"{client.base_url}/openapi.json") for name, client in servers.items()}


@pytest.mark.parametrize(
    ("server", "path", "method", "mode"),
    [
        (name, path, method, mode)
        for name, told in DESCRIBED.items()
        for path, of in told["paths"].items()
        for method in of
        for mode in (GenerationMode if method == "post" else [GenerationMode.POSITIVE])
    ],
    ids=str,
)
def test_every_request_of_the_description_is_answered_as_it_says(
    schemas: dict[str, Any], server: str, path: str, method: str, mode: GenerationMode
) -> None:
    operation = schemas[server][path][method.upper()]
    named = {"path_parameters": {"name": "champion"}} if "{name}" in path else {}
    # Where tensors' shapes must fit their data, JSON Schema cannot say it.
    left_out = [checks.positive_data_acceptance] if path.endswith("infer") else []

    @settings(
        max_examples=EXAMPLES if method == "post" else 3,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode, **named))
    def answered(case: Any) -> None:
        case.call_and_validate(excluded_checks=left_out)

    answered()
