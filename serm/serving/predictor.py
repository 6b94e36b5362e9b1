"""The predictor: relevance models behind KServe's v1 and v2 protocols, and reranking clients' own.

``python -m serm.serving.predictor --model champion=PATH --model challenger=PATH --http-port 8080`` serves several
models in one process, on this machine only unless ``--host`` says otherwise. In v1 an instance is a query and a
document's text::

    POST /v1/models/champion:predict  {"instances": [{"query": "cat", "document": "grinning cat"}]}
    {"predictions": [{"score": 2.4, "distribution": [0.0, 0.1, 0.4, 0.5]}], "model_version": "0123456789ab"}

In v2 ``query`` and ``document`` are BYTES tensors of shape [n]; the outputs are ``score`` FP64 [n], the expected grade
(0 to 3), and ``distribution`` FP64 [n, 4], in JSON or binary. Rerankers' clients find what they know::

    POST /rerank  {"query": "cat", "documents": ["red heart", "grinning cat"], "top_n": 1}
    {"results": [{"index": 1, "relevance_score": 0.8}], ...}

Texts are cut to what the model reads, and the answer says which; many pairs are scored in parts. A request that is
wrong gets 400 with the field, one that is too large 413, one too many 429 with ``Retry-After``, one that waited too
long and one that comes while the server stops 503: always ``{"error": "..."}``, and nothing of its texts.

A model is served once it gives the scores of its golden batch. SIGHUP makes the server read its models again: each is
replaced, between two batches, by one that does, else the old one stays.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from serm.errors import UserError
from serm.relevance.known import KnownTexts
from serm.serving import flags, metrics
from serm.serving.application import Application
from serm.serving.batching import Batcher
from serm.serving.connections import Server, listen
from serm.serving.served import ServedModel
from serm.serving.states import StateStore
from serm.serving.warming import Warming
from serm.settings.serving import PredictorSettings

_LOG = logging.getLogger(__name__)


def application(
    models: Mapping[str, Path | str],
    settings: PredictorSettings,
    documents: Path | None = None,
    states: Sequence[Path] = (),
) -> Application:
    """Return what answers for the models, name -> location; each is read, and has scored its golden batch.

    They share what they know of texts, where they stand on the same encoder. With ``documents``, a document store,
    they compute its documents before they are asked for, while nobody waits; what a file of ``states`` holds for one of
    them it need not compute at all.

    Raises:
        UserError: a model or a store cannot be read.
    """
    batcher, known = Batcher(settings), KnownTexts(settings.document_cache_mb * 1_000_000)
    known.stores = stores = [StateStore(path) for path in states]
    served = {name: ServedModel(name, path, batcher, known) for name, path in models.items()}
    for model in served.values():
        model.load()
    of_models = {model.model.frozen for model in served.values()}
    for store in stores:
        if store.frozen not in of_models:
            _LOG.warning("%s: states of none of these models; its documents are computed as they come", store.path)
    metrics.watch(batcher, known)
    return Application(served, batcher, None if documents is None else Warming(documents, served, batcher, known))


def serve(
    models: Mapping[str, Path | str],
    host: str,
    port: int,
    settings: PredictorSettings,
    grpc_port: int | None = None,
    documents: Path | None = None,
    states: Sequence[Path] = (),
) -> None:
    """Serve the models, name -> location, until SIGTERM; SIGHUP makes them be read again.

    Args:
        models: each is read before the first request is taken.
        host: the address to listen on.
        port: the port; 0 takes a free one, and the log says which.
        settings: what is taken and kept.
        grpc_port: the port of gRPC, 0 for a free one; None for no gRPC.
        documents: a document store, whose documents are computed before they are asked for.
        states: files of documents that are computed already, of one or several of the models.

    Raises:
        UserError: a model or a store cannot be read, or the address is taken.
    """
    answering = application(models, settings, documents, states)
    listening = listen(host, port)
    _LOG.info("Serving %s on http://%s:%d", ", ".join(models), *listening.getsockname()[:2])
    Server(answering, host, grpc_port).run([listening])


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m serm.serving.predictor", description="Serve relevance models.")
    parser.add_argument(
        "--model", action="append", required=True, metavar="NAME=PATH", help="may be repeated; PATH may be dvc:// too"
    )
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 in a pod; who can reach it may ask it")
    parser.add_argument("--http-port", type=int, default=8080, help="0 takes a free one")
    parser.add_argument("--grpc-port", type=int, help="KServe's is 8081, 0 takes a free one; without it no gRPC")
    parser.add_argument(
        "--documents", type=Path, help="what serm export --documents wrote: computed before it is asked for"
    )
    parser.add_argument(
        "--states", type=Path, action="append", default=[], help="what serm export --states wrote; may be repeated"
    )
    flags.add(parser, PredictorSettings, "serving.predictor")
    options = parser.parse_args()
    named = [text.partition("=") for text in options.model]
    if not all(name and path for name, _, path in named):
        parser.error("--model expects NAME=PATH, for example champion=state/champion")
    models = {name: path for name, _, path in named}
    if len(models) < len(named) or any("/" in name for name in models):
        parser.error("--model: each NAME once, and without a slash, for it is a part of the model's URL")
    settings = flags.read(parser, PredictorSettings, vars(options))
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        serve(models, options.host, options.http_port, settings, options.grpc_port, options.documents, options.states)
    except UserError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
