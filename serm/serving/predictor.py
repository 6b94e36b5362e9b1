"""The predictor: relevance models behind KServe's v1 and v2 REST protocols.

``python -m serm.serving.predictor --model champion=PATH --model challenger=PATH --http-port 8080`` serves several
models in one process, on this machine only unless ``--host`` says otherwise. In v1 an instance is a query and a
document's text::

    POST /v1/models/champion:predict  {"instances": [{"query": "cat", "document": "grinning cat"}]}
    {"predictions": [{"score": 2.4, "distribution": [0.0, 0.1, 0.4, 0.5]}], "model_version": "0123456789ab"}

In v2 ``query`` and ``document`` are BYTES tensors of shape [n]; the outputs are ``score`` FP64 [n], the expected grade
(0 to 3), and ``distribution`` FP64 [n, 4], in JSON or binary. Texts are cut to what the model reads, and many pairs
are scored in parts. A request that is wrong gets 400 with the field, one that is too large 413, one too many 429 with
``Retry-After``, and one that comes while the server stops 503: always ``{"error": "..."}``, and nothing of its texts.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kserve import Model

from serm import relevance
from serm.errors import UserError
from serm.serving import protocol
from serm.serving.application import Application
from serm.serving.connections import Server, listen
from serm.serving.protocol import Answer, Body, Request
from serm.serving.scoring import Scoring

_LOG = logging.getLogger(__name__)
#: Bodies are read one after the other, so that at most one is in memory as bytes and as texts.
_READING = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read")


class Predictor(Model):  # type: ignore[misc]
    """A saved relevance model under a name; KServe's ``Model`` calls the three phases, and measures them."""

    def __init__(self, name: str, path: Path, scoring: Scoring) -> None:
        super().__init__(name)
        self.path = path
        self._scoring = scoring

    def load(self) -> bool:
        """Read the model, which scores a pair before it is believed; raises ``UserError`` when it cannot."""
        self.model = relevance.load_scorer(self.path)
        self.ready = True
        return True

    async def preprocess(self, payload: Body, headers: Any = None) -> Request:
        """Read a body, off the event loop; raises ``InvalidInput`` or ``TooLarge``."""
        return await asyncio.get_running_loop().run_in_executor(_READING, protocol.read_request, payload)

    async def predict(self, payload: Request, headers: Any = None) -> tuple[Request, relevance.Scores]:
        """Score a request's pairs when its turn has come; raises ``Busy`` or ``Stopping``."""
        return payload, await self._scoring.score(self.model, payload.queries, payload.documents)

    async def postprocess(self, result: tuple[Request, relevance.Scores], headers: Any = None) -> Answer:
        """Write the answer."""
        return protocol.answer(*result, self.name, self.model.version)

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return the v2 metadata of the inputs."""
        return protocol.input_types()

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return the v2 metadata of the outputs."""
        return protocol.output_types()


def serve(models: dict[str, Path], host: str, port: int, queue_pairs: int, max_body: int) -> None:
    """Serve the models, name -> directory, until SIGTERM.

    Args:
        models: each is read, and has scored a pair, before the first request is taken.
        host: the address to listen on.
        port: the port; 0 takes a free one, and the log says which.
        queue_pairs: pairs that may wait; a request beyond them gets 429.
        max_body: bytes of a request's body; a longer one gets 413.

    Raises:
        UserError: a model cannot be read, or the address is taken.
    """
    scoring = Scoring(queue_pairs)
    predictors = {name: Predictor(name, path, scoring) for name, path in models.items()}
    for predictor in predictors.values():
        predictor.load()
    listening = listen(host, port)
    _LOG.info("Serving %s on http://%s:%d", ", ".join(models), *listening.getsockname()[:2])
    Server(Application(predictors, scoring, max_body)).run([listening])


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m serm.serving.predictor", description="Serve relevance models.")
    parser.add_argument("--model", action="append", required=True, metavar="NAME=PATH", help="may be repeated")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 in a pod; who can reach it may ask it")
    parser.add_argument("--http-port", type=int, default=8080, help="0 takes a free one")
    parser.add_argument("--queue-pairs", type=int, default=1024, help="pairs that may wait, beyond them: 429")
    parser.add_argument("--max-body-mb", type=int, default=32, help="of a request, beyond them: 413")
    options = parser.parse_args()
    named = [text.partition("=") for text in options.model]
    if not all(name and path for name, _, path in named):
        parser.error("--model expects NAME=PATH, for example champion=state/champion")
    if options.queue_pairs < 1 or options.max_body_mb < 1:
        parser.error("--queue-pairs and --max-body-mb must be at least 1")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    models = {name: Path(path) for name, _, path in named}
    try:
        serve(models, options.host, options.http_port, options.queue_pairs, options.max_body_mb * 1_000_000)
    except UserError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
