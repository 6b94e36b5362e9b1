"""A chat completions endpoint that is a real HTTP server: it grades by a rule, and fails as real ones do.

``python tests/fake_llm.py --latency 0.2`` serves one in a process of its own and prints its address.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import hashlib
import html
import itertools
import json
import math
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import uvicorn

Grade = Callable[[str, str], int]
"""(query, document) -> grade"""
Fault = Callable[[str, int], str | None]
"""(request key, how often it came before) -> the name of a fault, or None"""

Says = Callable[[dict[str, Any], dict[str, Any]], "Said | object | None"]
"""(request, the ordinary answer) -> what is said in its place: ``Said``, or a JSON body; None for the ordinary one"""

Narrow = Callable[[str, str, str, int], int]
"""(name of a narrow question, query, document, the highest answer) -> its answer"""

FAULTS = ("429", "500", "drop", "slow", "garbage", "truncated", "wrong label", "no label")


def shared_words(query: str, document: str) -> int:
    """3 where the document is the query, 2 where it holds all of its words, 1 some, 0 none."""
    asked, there = query.casefold().split(), document.casefold().split()
    if asked == there:
        return 3
    shared = sum(word in there for word in asked)
    return 2 if shared == len(asked) else min(shared, 1)


def seeded(kinds: tuple[str, ...], share: float, seed: int = 0) -> Fault:
    """Fail a ``share`` of all requests, each in one of the ``kinds``, drawn by key and attempt."""

    def fault(key: str, attempt: int) -> str | None:
        drawn = int.from_bytes(hashlib.sha256(f"{seed} {key} {attempt}".encode()).digest()[:8], "big") / 2**64
        return kinds[int(drawn / share * len(kinds))] if drawn < share else None

    return fault


@dataclass(frozen=True)
class Said:
    """An answer of any kind."""

    body: object
    """Text and bytes go out as they are, all else as JSON."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    endless: bool = False
    """Repeat the body until the client hangs up."""


_there: dict[str, FakeLLM] = {}
_names = itertools.count()


@functools.cache
def _address() -> str:
    """Start the server that all of this process share, and return where it is: uvicorn takes 0.2 s to end."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(_ask, log_level="critical", lifespan="off", access_log=False))
    threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True).start()
    while not server.started:
        time.sleep(0.005)
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


async def _ask(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Pass a request to whom its address names."""
    fake = _there.get(scope["path"].split("/")[1])
    if fake is None:
        await _send(send, 404, json.dumps({"error": {"message": "no such endpoint"}}))
    else:
        await fake(scope, receive, send)


class FakeLLM:
    """An endpoint; use it as a context."""

    def __init__(
        self,
        grade: Grade = shared_words,
        *,
        latency: float = 0.0,
        fault: Fault = lambda key, attempt: None,
        retry_after: str = "0.05",
        slowness: float = 0.02,
        tokens: tuple[int, int] = (200, 40),
        says: Says = lambda request, ordinary: None,
        narrow: Narrow = lambda name, query, document, highest: 0,
    ) -> None:
        self.grade, self.latency, self.fault, self.says = grade, latency, fault, says
        self.retry_after, self.slowness, self.tokens, self.narrow = retry_after, slowness, tokens, narrow
        self.seen: Counter[str] = Counter()
        """How often each request, by its key, came."""
        self.finished: Counter[str] = Counter()
        self.log: list[tuple[float, str, dict[str, Any]]] = []
        """Arrival time, key and body of each request."""
        self.headers: list[dict[str, str]] = []
        """Of each request."""
        self.sent = 0
        """Bytes of endless answers that were sent."""
        self.in_flight = self.most_in_flight = 0

    def __enter__(self) -> FakeLLM:
        name = str(next(_names))
        _there[name] = self
        self.url = f"{_address()}/{name}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        del _there[self.url.split("/")[-2]]

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if not scope["path"].endswith("/v1/chat/completions"):
            await _send(send, 404, json.dumps({"error": {"message": f"no {scope['path']} here"}}))
            return
        request = json.loads(body)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        key = headers.get("idempotency-key") or hashlib.sha256(body).hexdigest()
        attempt = self.seen[key]
        self.seen[key] += 1
        self.log.append((time.monotonic(), key, request))
        self.headers.append(headers)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency)
            ordinary = self._completion(request, None)
            if (said := self.says(request, ordinary)) is not None:
                await self._say(said if isinstance(said, Said) else Said(said), send, receive)
            else:
                await self._answer(request, self.fault(key, attempt), send)
            self.finished[key] += 1
        finally:
            self.in_flight -= 1

    async def _say(self, said: Said, send: Any, receive: Any) -> None:
        body = said.body if isinstance(said.body, str | bytes) else json.dumps(said.body)
        raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
        if not said.endless:
            await _send(send, said.status, raw, list(said.headers.items()))
            return
        gone = asyncio.create_task(receive())
        headers = [(name.encode(), value.encode()) for name, value in said.headers.items()]
        await send({"type": "http.response.start", "status": said.status, "headers": headers})
        while not gone.done():
            await send({"type": "http.response.body", "body": raw, "more_body": True})
            self.sent += len(raw)
            await asyncio.sleep(0)

    async def _answer(self, request: dict[str, Any], fault: str | None, send: Any) -> None:
        if fault == "429":
            await _send(send, 429, '{"error": {"message": "slow down"}}', [("retry-after", self.retry_after)])
        elif fault and fault.isdigit():
            await _send(send, int(fault), json.dumps({"error": {"message": f"fault {fault}"}}))
        elif fault == "garbage":
            await _send(send, 200, "<html>the proxy is not well</html>", kind="text/html")
        elif fault == "drop":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
            await send({"type": "http.response.body", "body": b'{"id": '})
        else:
            text = json.dumps(self._completion(request, fault))
            await _send(send, 200, text, pause=self.slowness if fault == "slow" else 0.0)

    def _compared(self, query: str, user: str) -> dict[str, Any]:
        """Answer a comparison: by the grade, and the first where it is the same; nothing where none is asked for."""
        if "<document_a>" not in user:
            return {}
        one, two = (self.grade(query, html.unescape(_between(user, tag))) for tag in ("document_a", "document_b"))
        return {"rationale": "by the grade", "better": "A" if one >= two else "B"}

    def _completion(self, request: dict[str, Any], fault: str | None) -> dict[str, Any]:
        users = [m["content"] for m in request["messages"] if m["role"] == "user"]
        query = html.unescape(_between(users[0], "query"))
        label, answer = 0, self._compared(query, users[0])
        if not answer:
            document = html.unescape(_between(users[0], "document"))
            label = self.grade(query, document)
            answer = {"rationale": f"{document[:40]} for {query[:40]}", "evidence_used": [1], "label": label}
            form = request.get("response_format", {}).get("json_schema", {}).get("schema", {}).get("properties", {})
            if "criteria" in form:
                asked = form["criteria"]["properties"]
                answer["criteria"] = {
                    name: self.narrow(name, query, document, max(of["enum"])) for name, of in asked.items()
                }
            answer["confidence"] = 0.9
        content = json.dumps(answer, ensure_ascii=False)
        if fault == "truncated":
            content = content[: len(content) // 2]
        elif fault == "wrong label":
            content = content.replace(f'"label": {label}', '"label": 7')
        elif fault == "no label":
            content = "I think this document is rather good."
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": content},
            "finish_reason": "length" if fault == "truncated" else "stop",
            "logprobs": {"content": _tokens(content, label), "refusal": None} if request.get("logprobs") else None,
        }
        prompt, output = self.tokens
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": request["model"],
            "choices": [choice],
            "usage": {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output},
        }


def _tokens(content: str, label: int) -> list[dict[str, Any]]:
    """Split an answer into tokens; the label's own holds the alternatives, 0.7 to the label."""
    found = re.search(r'(?<="label": )\d', content)
    place = found.start() if found else len(content)
    parts = [content[:place], content[place : place + 1], content[place + 1 :]]
    chances = {str(grade): 0.7 if grade == label else 0.1 for grade in range(4)}
    return [
        {
            "token": part,
            "logprob": 0.0,
            "bytes": None,
            "top_logprobs": [
                {"token": token, "logprob": math.log(chance), "bytes": None} for token, chance in chances.items()
            ]
            if number == 1
            else [],
        }
        for number, part in enumerate(parts)
        if part
    ]


def _between(text: str, tag: str) -> str:
    return text.split(f"<{tag}>", 1)[1].split(f"</{tag}>", 1)[0]


async def _send(
    send: Any,
    status: int,
    text: str | bytes,
    headers: list[tuple[str, str]] | None = None,
    kind: str = "application/json",
    pause: float = 0.0,
) -> None:
    body = text.encode() if isinstance(text, str) else text
    named = [("content-type", kind), ("content-length", str(len(body))), *(headers or [])]
    start = {"type": "http.response.start", "status": status, "headers": [(n.encode(), v.encode()) for n, v in named]}
    await send(start)
    step = max(len(body) if not pause else len(body) // 8, 1)
    for place in range(0, max(len(body), 1), step):
        await asyncio.sleep(pause)
        part = {"type": "http.response.body", "body": body[place : place + step]}
        await send(part | {"more_body": place + step < len(body)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0)
    with FakeLLM(latency=parser.parse_args().latency) as fake:
        print(fake.url, flush=True)
        threading.Event().wait()
