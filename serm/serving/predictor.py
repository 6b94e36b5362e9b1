"""The predictor: a relevance model behind KServe's v1 and v2 REST protocols.

``python -m serm.serving.predictor --model champion=PATH --model challenger=PATH --http-port 8080`` serves several
models in one process. In v1 an instance is a query and a document's text::

    POST /v1/models/champion:predict  {"instances": [{"query": "cat", "document": "grinning cat"}]}
    {"predictions": [{"score": 2.4, "distribution": [0.0, 0.1, 0.4, 0.5]}], "model_version": "0123456789ab"}

In v2 ``query`` and ``document`` are BYTES tensors of shape [n]; the outputs are ``score`` FP64 [n], the expected grade
(0 to 3), and ``distribution`` FP64 [n, 4]. v2 wants ``Content-Type: application/json`` and an ``id``.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.errors import InvalidInput

from serm import relevance
from serm.contracts import Grade
from serm.errors import UserError

MAX_PAIRS = 256
"""Pairs in one request."""
MAX_CHARACTERS = 10_000
"""Characters of one text; the model reads its first ``max_tokens`` tokens."""

#: One for all models of the process: torch already spreads a batch over the cores.
_SCORING = ThreadPoolExecutor(max_workers=1, thread_name_prefix="score")


class Predictor(Model):  # type: ignore[misc]
    """A saved relevance model under a name."""

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name)
        self.path = path

    def load(self) -> bool:
        """Read the model. Raises ``UserError`` when there is none, or one that is not safetensors."""
        self.model = relevance.load_scorer(self.path)
        self.ready = True
        return self.ready

    async def predict(
        self, payload: dict[str, Any] | InferRequest, headers: Any = None, response_headers: Any = None
    ) -> dict[str, Any] | InferResponse:
        """Score the pairs of a v1 (dict) or v2 request; raises ``InvalidInput`` (HTTP 400) when it has none."""
        if isinstance(payload, InferRequest):
            scores = await self._score(*_tensors(payload))
            outputs = [
                _output("score", scores.expected),
                _output("distribution", scores.distribution),
            ]
            return InferResponse(payload.id, self.name, outputs, model_version=self.model.version)
        scores = await self._score(*_instances(payload))
        return {
            "predictions": [
                {"score": score, "distribution": distribution}
                for score, distribution in zip(scores.expected.tolist(), scores.distribution.tolist(), strict=True)
            ],
            "model_version": self.model.version,
        }

    async def _score(self, queries: list[str], documents: list[str]) -> relevance.Scores:
        """Score off the event loop, so that health checks are answered meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(_SCORING, self.model.score, queries, documents)

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return the v2 metadata of the inputs."""
        return [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in ("query", "document")]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return the v2 metadata of the outputs."""
        return [
            {"name": "score", "datatype": "FP64", "shape": [-1]},
            {"name": "distribution", "datatype": "FP64", "shape": [-1, len(Grade)]},
        ]


def _instances(payload: Any) -> tuple[list[str], list[str]]:
    instances = payload.get("instances") if isinstance(payload, dict) else None
    if not isinstance(instances, list):
        raise InvalidInput('Expected {"instances": [{"query": "...", "document": "..."}]}.')
    for row, instance in enumerate(instances):
        if not isinstance(instance, dict) or not {"query", "document"} <= instance.keys():
            raise InvalidInput(f'instances[{row}]: expected an object with "query" and "document".')
    return _checked([one["query"] for one in instances], [one["document"] for one in instances])


def _tensors(request: InferRequest) -> tuple[list[str], list[str]]:
    tensors = {tensor.name: tensor for tensor in request.inputs}
    texts = []
    for name in ("query", "document"):
        tensor = tensors.get(name)
        if tensor is None or tensor.datatype != "BYTES" or len(tensor.shape) != 1:
            raise InvalidInput(f"inputs: expected a BYTES tensor {name!r} of shape [n].")
        try:
            values = tensor.as_numpy().tolist()
            texts.append([value.decode() if isinstance(value, bytes) else value for value in values])
        except ValueError as error:  # the shape does not fit the data, or the bytes are not UTF-8
            raise InvalidInput(f"inputs: {name}: {error}.") from error
    return _checked(*texts)


def _checked(queries: list[Any], documents: list[Any]) -> tuple[list[str], list[str]]:
    if len(queries) != len(documents):
        raise InvalidInput(f"{len(queries)} queries but {len(documents)} documents; a pair is one of each.")
    if not 1 <= len(queries) <= MAX_PAIRS:
        raise InvalidInput(f"{len(queries)} pairs; send 1 to {MAX_PAIRS} in a request.")
    for name, texts in (("query", queries), ("document", documents)):
        for row, text in enumerate(texts):
            if not isinstance(text, str) or not 1 <= len(text) <= MAX_CHARACTERS:
                raise InvalidInput(f"Pair {row}: {name} must be a text of 1 to {MAX_CHARACTERS} characters.")
    return queries, documents


def _output(name: str, values: np.ndarray[Any, Any]) -> InferOutput:
    output = InferOutput(name, list(values.shape), "FP64")
    output.set_data_from_numpy(values.astype(np.float64), binary_data=False)
    return output


def serve(models: dict[str, Path], http_port: int) -> None:
    """Serve the models, name -> directory, until SIGTERM. Raises ``UserError`` when one cannot be read."""
    predictors = [Predictor(name, path) for name, path in models.items()]
    for predictor in predictors:
        predictor.load()
    # Latency logging prints a line for each request; the Prometheus histograms at /metrics hold the same.
    ModelServer(http_port=http_port, enable_grpc=False, enable_latency_logging=False).start(predictors)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m serm.serving.predictor", description="Serve relevance models.")
    parser.add_argument("--model", action="append", required=True, metavar="NAME=PATH", help="may be repeated")
    parser.add_argument("--http-port", type=int, default=8080)
    options = parser.parse_args()
    named = [text.partition("=") for text in options.model]
    if not all(name and path for name, _, path in named):
        parser.error("--model expects NAME=PATH, for example champion=state/champion")
    try:
        serve({name: Path(path) for name, _, path in named}, options.http_port)
    except UserError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
