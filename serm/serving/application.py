"""The predictor's HTTP application: KServe's routes that a relevance model needs, rerankers' routes, and no others.

KServe's own application also loads and unloads models for whoever asks, calls a server ready that answers nothing, and
echoes a bad request; so the routes are listed here, and what is not listed is not there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib.metadata import version

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serm.serving import metrics, openapi
from serm.serving.answering import Answering, Told, as_json, metrics_page, told_plainly
from serm.serving.batching import Batcher
from serm.serving.protocols import rerank, v1, v2
from serm.serving.protocols.request import Read, json_object
from serm.serving.refusals import UnknownModel
from serm.serving.served import READING, ServedModel
from serm.serving.warming import Warming

RERANK = ("/rerank", "/v1/rerank", "/v2/rerank", "/openai/v1/rerank")
EXTENSIONS = ["binary_tensor_data"]
Ask = Callable[[bytes], Awaitable[tuple[str, Read]]]
_LOG = logging.getLogger(__name__)


class Application(Answering):
    """Answers HTTP for named models, within bounds, until it is told to drain."""

    def __init__(self, models: Mapping[str, ServedModel], batcher: Batcher, warming: Warming | None = None) -> None:
        """Answer for ``models``; the first is asked by who names none. ``batcher`` scores for all of them.

        ``warming`` goes on beside the answering.
        """
        self.models = models
        self._warming = warming
        self._beside: asyncio.Task[None] | None = None
        self.batcher = batcher
        self._reloading = asyncio.Lock()
        routes = (
            Route("/", self._live_v1),
            Route("/info", self._info),
            Route("/metrics", metrics_page),
            Route("/openapi.json", self._openapi),
            *(Route(path, self._rerank, methods=["POST"]) for path in RERANK),
            Route("/v1/models", self._names),
            Route("/v1/models/{name}:predict", self._predict, methods=["POST"]),
            Route("/v1/models/{name}", self._model_ready),
            Route("/v2", _metadata),
            Route("/v2/health/live", self._live_v2),
            Route("/v2/health/ready", self._ready),
            Route("/v2/models", self._names),
            Route("/v2/models/{name}", self._model),
            Route("/v2/models/{name}/ready", self._model_ready),
            Route("/v2/models/{name}/infer", self._infer, methods=["POST"]),
        )
        super().__init__("serm-predictor", routes, batcher.settings.max_body_mb, batcher.settings.access_log)

    def begin(self) -> None:
        """Begin to warm the cache."""
        if self._warming is not None:
            self._beside = asyncio.get_running_loop().create_task(self._warming.run(lambda: self.draining))

    def give_up(self) -> None:
        """Refuse what waits."""
        self.batcher.closed = True

    def retry_after(self) -> int:
        """Return the seconds in which what waits now should be scored."""
        return self.batcher.retry_after()

    async def reload(self) -> None:
        """Read the models again, beside those that answer; each is replaced when the new one has scored right.

        Where it cannot be read or does not score right, the old one stays, and the log says why.
        """
        async with self._reloading:
            for name, model in self.models.items():
                before = model.model.version
                try:
                    await run_in_threadpool(model.load)
                except Exception as error:  # whatever is wrong with the new one, the old one answers
                    metrics.SWAPS.labels(name, "kept").inc()
                    _LOG.error("%s stays at version %s: %s", name, before, error)
                else:
                    metrics.SWAPS.labels(name, "swapped").inc()
                    _LOG.info("%s is version %s now, and was %s", name, model.model.version, before)

    async def _live_v1(self, request: Request) -> Response:
        return as_json({"status": "alive"})

    async def _live_v2(self, request: Request) -> Response:
        return as_json({"live": True})

    async def _ready(self, request: Request) -> Response:
        return as_json({"ready": not self.draining}, 503 if self.draining else 200)

    async def _names(self, request: Request) -> Response:
        return as_json({"models": list(self.models)})

    async def _info(self, request: Request) -> Response:
        """Say what is served, in the words of text-embeddings-inference."""
        (first, model), limits = next(iter(self.models.items())), self.batcher.settings
        told = {"model_id": first, "model_sha": model.model.version, "model_type": {"reranker": {}}}
        sizes = {"max_input_length": model.model.max_tokens, "max_batch_tokens": limits.batch_tokens}
        most = {"max_client_batch_size": limits.max_request_pairs, "auto_truncate": True}
        models = {name: {"version": one.model.version} for name, one in self.models.items()}
        return as_json({**told, **sizes, **most, "version": version("serm"), "models": models})

    async def _openapi(self, request: Request) -> Response:
        return as_json(openapi.of_predictor(version("serm"), RERANK, self.batcher.settings))

    async def _model(self, request: Request) -> Response:
        name = self._known(request)
        told = {"name": name, "versions": [self.models[name].model.version], "platform": ""}
        return as_json({**told, "inputs": v2.input_types(), "outputs": v2.output_types()})

    async def _model_ready(self, request: Request) -> Response:
        return as_json({"name": self._known(request), "ready": not self.draining}, 503 if self.draining else 200)

    async def _predict(self, request: Request) -> Response:
        name = self._known(request)

        async def ask(body: bytes) -> tuple[str, Read]:
            return name, partial(v1.read, body)

        return await self._scored(request, ask)

    async def _infer(self, request: Request) -> Response:
        name = self._known(request)

        async def ask(body: bytes) -> tuple[str, Read]:
            return name, partial(v2.read, body, request.headers.get(v2.JSON_LENGTH))

        return await self._scored(request, ask)

    async def _rerank(self, request: Request) -> Response:
        tei = False

        async def ask(body: bytes) -> tuple[str, Read]:
            nonlocal tei
            payload = await asyncio.get_running_loop().run_in_executor(READING, json_object, body)
            tei = "texts" in payload
            name = next(iter(self.models)) if payload.get("model") in (None, "") else payload["model"]
            if not isinstance(name, str) or name not in self.models:
                raise UnknownModel
            return name, partial(rerank.read, payload)

        return await self._scored(
            request, ask, lambda refused: rerank.refused(refused) if tei else told_plainly(refused)
        )

    async def _scored(self, request: Request, ask: Ask, told: Told = told_plainly) -> Response:
        """Let the model that ``ask`` finds answer the request, and tell a refusal as ``told`` has it."""

        async def work(body: bytes) -> Response:
            name, read = await ask(body)
            answered = (await self.models[name](read, dict(request.headers)))[0]
            request.scope["serm.answered"] = answered
            return Response(answered.answer.data, headers=dict(answered.answer.headers))

        return await self.answer(request, work, told)

    def _known(self, request: Request) -> str:
        name = str(request.path_params["name"])
        if name not in self.models:
            raise HTTPException(404, "No model has this name.")
        return name


async def _metadata(request: Request) -> Response:
    return as_json({"name": "serm", "version": version("serm"), "extensions": EXTENSIONS})
