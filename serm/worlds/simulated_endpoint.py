"""A simulated judge behind a real HTTP server that speaks the OpenAI chat completions protocol, for experiments.

``python -m serm.worlds.simulated_endpoint --accuracy 0.85`` serves one and prints its address: the ``base_url`` of
``judging.llms``. It reads query and document out of the prompt, as an LLM would, and gets nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import html
import json
import math
import re
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serm.contracts import Grade
from serm.worlds.emoji import EmojiWorld
from serm.worlds.simulated_judge import SimulatedJudge, SimulatedJudgeSettings, drawn

_LOCALE = re.compile(r"a user of the locale (\S+) who")
Json = dict[str, Any]


class SimulatedEndpoint:
    """The server, in a thread of this process; use it as a context."""

    def __init__(self, judge: SimulatedJudge, port: int = 0) -> None:
        """Serve on this machine only; port 0 takes a free one."""
        self._judge, self._settings = judge, judge.settings
        self.counts: Counter[str] = Counter()
        """Calls that were answered, failed (503, as set), and unknown (no pair of the world: 422)."""
        self._came: Counter[str] = Counter()
        self._socket = socket.create_server(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        """The ``base_url``."""
        app = Starlette(routes=[Route("/v1/chat/completions", self._complete, methods=["POST"])])
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", access_log=False))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def __enter__(self) -> SimulatedEndpoint:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(timeout=20)
        self._socket.close()

    async def _complete(self, request: Request) -> Response:
        body = await request.body()
        key = hashlib.sha256(body).hexdigest()
        attempt = self._came[key]
        self._came[key] += 1
        await asyncio.sleep(self._settings.latency)
        if drawn("failure", self._settings.salt, key, str(attempt)) < self._settings.failures:
            return self._refused("failed", 503, "simulated failure")
        try:
            asked = json.loads(body)
            system, user = (message["content"] for message in asked["messages"][:2])
            found = _LOCALE.search(system)
            locale = html.unescape(found[1]) if found else ""
            query = html.unescape(_between(user, "query"))
            tags = ("document_a", "document_b") if "<document_a>" in user else ("document",)
            documents = [html.unescape(_between(user, tag)) for tag in tags]
        except (ValueError, KeyError, TypeError, IndexError):
            return self._refused("unknown", 400, "not a prompt of SERM's judges")
        said = (
            self._preferred(query, locale, *documents)
            if documents[1:]
            else self._graded(asked, query, locale, *documents)
        )
        if said is None:
            return self._refused("unknown", 422, "the simulated judge does not know this query or document")
        self.counts["answered"] += 1
        return JSONResponse(self._completion(asked, *said))

    def _refused(self, what: str, status: int, message: str) -> Response:
        self.counts[what] += 1
        return JSONResponse({"error": {"message": message}}, status)

    def _graded(self, asked: Json, query: str, locale: str, document: str) -> tuple[str, list[Json]] | None:
        """Return the answer to a grade's question, and its tokens."""
        grade = self._judge.opinion(query, locale, document)
        if grade is None:
            return None
        before = '{"rationale": "Simulated judge.", "evidence_used": [], '
        if of := _criteria(asked):
            opinions = {name: self._judge.opinion(query, locale, document, name) or 0 for name in of}
            answers = {name: said if of[name] > 1 else int(said >= Grade.GOOD) for name, said in opinions.items()}
            before += f'"criteria": {json.dumps(answers)}, '
        before += '"label": '
        after = f', "confidence": {self._settings.confidence}}}'
        return f"{before}{grade}{after}", self._tokens(before, grade, after)

    def _preferred(self, query: str, locale: str, first: str, second: str) -> tuple[str, list[Json]] | None:
        """Return the answer to a comparison, and its tokens."""
        better = self._judge.preference(query, locale, first, second)
        if better is None:
            return None
        said = json.dumps({"rationale": "Simulated judge.", "better": better})
        return said, [_certain(said)]

    def _completion(self, asked: Json, content: str, tokens: list[Json]) -> Json:
        prompt = self._settings.input_tokens or math.ceil(
            sum(len(m["content"].encode()) for m in asked["messages"]) / 3
        )
        output = self._settings.output_tokens or math.ceil(len(content) / 3)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": content},
            "finish_reason": "stop",
            "logprobs": {"content": tokens} if asked.get("logprobs") else None,
        }
        return {
            "id": "chatcmpl-simulated",
            "object": "chat.completion",
            "created": 0,
            "model": asked.get("model"),
            "choices": [choice],
            "usage": {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output},
        }

    def _tokens(self, before: str, grade: int, after: str) -> list[Json]:
        own = self._settings.confidence
        chances = {str(of.value): own if of == grade else (1 - own) / (len(Grade) - 1) for of in Grade}
        alternatives = [{"token": token, "logprob": math.log(chance)} for token, chance in chances.items()]
        said = {"token": str(grade), "logprob": math.log(own), "top_logprobs": alternatives}
        return [_certain(before), said, _certain(after)]


def _criteria(asked: Json) -> dict[str, int]:
    """Return the narrow questions that an answer must hold, each with its highest answer."""
    try:
        fields = asked["response_format"]["json_schema"]["schema"]["properties"]["criteria"]["properties"]
    except (KeyError, TypeError):
        return {}
    return {name: max(of["enum"]) for name, of in fields.items()}


def _certain(token: str) -> Json:
    return {"token": token, "logprob": 0.0, "top_logprobs": []}


def _between(text: str, tag: str) -> str:
    return str(text).split(f"<{tag}>", 1)[1].split(f"</{tag}>", 1)[0]


def main(
    accuracy: Annotated[float, typer.Option(help="Share of pairs that it grades right.")] = 0.85,
    settings: Annotated[
        Path | None, typer.Option(help="A JSON file of SimulatedJudgeSettings, in place of the accuracy.")
    ] = None,
    champion: Annotated[
        Path | None, typer.Option(help="The mined pairs (cycle/mine/pairs) whose errors like_champion shares.")
    ] = None,
    world: Annotated[Path | None, typer.Option(help="The emoji world's data, where it is not the package's.")] = None,
    port: Annotated[int, typer.Option(help="0: a free one.")] = 0,
) -> None:
    """Serve a SIMULATED judge of the emoji world, which knows its hidden truth, until Ctrl+C."""
    of = (
        SimulatedJudgeSettings.model_validate_json(settings.read_text(encoding="utf-8"))
        if settings
        else SimulatedJudgeSettings(accuracy=accuracy)
    )
    with SimulatedEndpoint(SimulatedJudge(EmojiWorld(data=world) if world else EmojiWorld(), of, champion), port) as on:
        print(on.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    typer.run(main)
