"""The transformer's command line: ``python -m serm.serving.transformer``.

It stands between a search engine and the predictors of champion and challenger::

    python -m serm.serving.transformer --champion http://HOST:8080/v1/models/champion \\
        --challenger http://HOST:8080/v1/models/challenger --experiment experiment.yaml \\
        --documents documents.sqlite --log served/

    POST /rank  {"query": "cat", "client_id": "c1", "documents": ["en-7", "en-9"], "top_n": 10}
    {"query_id": "...", "variant": "control", "ranked_by": "champion", "model_version": "0123456789ab",
     "results": [{"id": "en-9", "index": 1, "score": 2.4}, ...], "unknown": [], "logged": true}

A document is an id, whose text the store knows, or ``{"id": ..., "text": ...}``. The log is UBI: ``serm ingest`` reads
it beside the events that the search engine writes with the answer's ``query_id`` and the request's ``client_id``; in
its place it holds the hash that ingest makes of it, keyed by ``SERM_USER_KEY``.
With ``--judgments judgments.sqlite`` a document that is judged for the query stands by its ``grade`` too, which is in
the answer beside the model's ``score``.
SIGHUP makes the experiment and the stores be read again, SIGTERM ends the server once all is answered and logged.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import httpx

from serm.errors import UserError
from serm.rollout.split import Variant
from serm.serving import flags
from serm.serving.connections import Server, listen
from serm.serving.transformer.application import Transformer
from serm.serving.transformer.events import Events
from serm.serving.transformer.predictors import MAX_CONNECTIONS, Predictor, http_url
from serm.serving.transformer.querylog import QueryLog
from serm.settings.secret import user_key
from serm.settings.serving import TransformerSettings

_LOG = logging.getLogger(__name__)
FORM = "http://HOST:PORT/v1/models/NAME"


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m serm.serving.transformer", description="Rank by the user's variant, and log what was served."
    )
    parser.add_argument("--champion", metavar="URL", help="http://HOST:PORT/v1/models/NAME")
    parser.add_argument("--challenger", metavar="URL", help="likewise")
    parser.add_argument(
        "--experiment", type=Path, help="YAML or JSON: name, percent, and perhaps interleave, layer, low, high"
    )
    parser.add_argument("--documents", type=Path, help="what serm export --documents wrote")
    parser.add_argument(
        "--judgments", type=Path, help="what serm export --judgments wrote: a pair in it is ranked by its grade too"
    )
    parser.add_argument("--log", type=Path, required=True, help="the query log's directory; one process writes a file")
    parser.add_argument(
        "--events", metavar="URL", help="post what was served there too, as the CloudEvents of KServe's logger"
    )
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 in a pod; who can reach it may ask it")
    parser.add_argument("--http-port", "--http_port", type=int, default=8080, help="0 takes a free one")
    parser.add_argument(
        "--predictor_host", metavar="HOST[:PORT]", help="as KServe gives it: the champion's, without --champion"
    )
    parser.add_argument("--model_name", metavar="NAME", help="as KServe gives it: the champion's name there")
    flags.add(parser, TransformerSettings, "serving.transformer")
    options = parser.parse_args()
    settings = flags.read(parser, TransformerSettings, vars(options))
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # which writes a line for each request
    if not options.champion and not (options.predictor_host and options.model_name):
        parser.error("give --champion; KServe gives --predictor_host and --model_name in its place")
    default = f"http://{options.predictor_host}/v1/models/{options.model_name}"
    urls: dict[Variant, str] = {"champion": options.champion or default}
    if options.challenger:
        urls["challenger"] = options.challenger
    try:
        key = user_key()
        listening = listen(options.host, options.http_port)
        log, events = QueryLog(options.log, settings), None
        try:
            if options.events:
                events = Events(options.events, options.model_name or "", settings.log_queue_mb)
            answering = Transformer(
                predictors(urls), log, key, settings, options.documents, options.experiment, events, options.judgments
            )
            _LOG.info("Ranking on http://%s:%d", *listening.getsockname()[:2])
            Server(answering, options.host).run([listening])
        finally:
            log.close()
            if events is not None:
                events.close()
    except UserError as error:
        sys.exit(f"Error: {error}")


def predictors(urls: dict[Variant, str]) -> dict[Variant, Predictor]:
    """Return the predictors at ``urls``, which share their connections.

    Raises:
        UserError: one is no URL of a served model.
    """
    for variant, url in urls.items():
        if "/v1/models/" not in http_url(f"--{variant}", url, FORM).path:
            raise UserError(f"--{variant} {url!r}: expected {FORM}.")
    limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS)
    client = httpx.AsyncClient(limits=limits, trust_env=False)
    probing = httpx.AsyncClient(trust_env=False)
    return {variant: Predictor(url, client, probing) for variant, url in urls.items()}


if __name__ == "__main__":
    main()
