"""Bodies drawn from the predictor's own OpenAPI description: each is answered as it says, and none fails the server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_here import serving

from serm.serving.application import RERANK
from serm.settings.serving import PredictorSettings


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    root = tmp_path_factory.mktemp("model")
    tiny_models.save(root / "champion", root / "base", 0)
    with serving({"champion": root / "champion"}, PredictorSettings()) as client:
        yield client


def bodies(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return values of a schema, of the words that the description uses."""
    for several in ("oneOf", "anyOf"):
        if several in schema:
            return st.one_of(*map(bodies, schema[several]))
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "object":
            fields = {name: bodies(one) for name, one in schema.get("properties", {}).items()}
            needed = {name: fields.pop(name) for name in schema.get("required", []) if name in fields}
            return st.fixed_dictionaries(needed, optional=fields)
        case "array":
            return st.lists(bodies(schema["items"]), min_size=schema.get("minItems", 0), max_size=3)
        case "string":
            return st.sampled_from(["champion", "query", "document", "cat"]) | st.text(max_size=9)
        case "number":
            return st.floats(allow_nan=False, allow_infinity=False)
        case "integer":
            return st.integers(schema.get("minimum", 0), 5)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
    raise AssertionError(f"the description has a word that this test does not know: {schema}")


@pytest.mark.parametrize("path", ["/v1/models/{name}:predict", "/v2/models/{name}/infer", *RERANK])
def test_every_body_of_the_description_is_answered_as_it_says(client: httpx.Client, path: str) -> None:
    operation = client.get("/openapi.json").json()["paths"][path]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    statuses = Counter[int]()

    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(body=bodies(schema))
    def answered(body: Any) -> None:
        jsonschema.Draft202012Validator(schema).validate(body)
        answer = client.post(path.replace("{name}", "champion"), json=body)
        told = operation["responses"][str(answer.status_code)]["content"]["application/json"]["schema"]
        jsonschema.Draft202012Validator(told).validate(answer.json())
        statuses[answer.status_code] += 1

    answered()
    # Only where a tensor's shape or a model's name must fit too may a body of the description be refused.
    refusals = {"infer": 400, "rerank": 404}.get(path.rpartition("/")[2], 200)
    assert statuses.keys() <= {200, refusals}
    assert statuses[200] or refusals == 400
