"""Kubeflow Pipelines' API in small, on a real socket: it holds requests, and its own answers, to KFP's swagger."""

from __future__ import annotations

import email
import email.policy
import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import yaml

from serm.local_server import LocalServer

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
TOKEN = "a-token-of-the-tests"
SWAGGER = json.loads(
    gzip.decompress((Path(__file__).parent / "data/schemas/kfp_api_v2beta1.swagger.json.gz").read_bytes())
)
DEFINITIONS = {
    # A field that the API does not know is an error here; the real one drops it in silence.
    name: one | ({"additionalProperties": False} if "properties" in one and name != "protobufAny" else {})
    for name, one in SWAGGER["definitions"].items()
}
ROUTES = [
    (method.upper(), re.compile(re.sub(r"\\\{[^/]*?\\\}", "([^/]+)", re.escape(path))), operation)
    for path, operations in SWAGGER["paths"].items()
    for method, operation in operations.items()
]


class BrokenContractError(AssertionError):
    """A request or an answer that the swagger does not know."""


def hold(value: Any, schema: dict[str, Any]) -> None:
    jsonschema.validate(value, schema | {"definitions": DEFINITIONS}, cls=jsonschema.Draft4Validator)


class FakeKfp:
    """What it has by kind and id; ``faults`` are taken one for each request that creates, in order.

    A fault: a status, answered without doing it; ``("done", status)``, done and answered so; ``"hang up"``, done, and
    the connection closed; ``None`` for none. ``down`` is how many of the next requests of any kind are answered 503.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.things: dict[str, dict[str, dict[str, Any]]] = {
            kind: {} for kind in ("pipelines", "versions", "experiments", "runs", "recurringruns")
        }
        self.packages: dict[str, list[Any]] = {}
        self.faults: list[Any] = []
        self.down = 0
        self.looks: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str]] = []
        self.broken: list[str] = []
        self.lock = threading.Lock()

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> tuple[int, Any] | None:
        path, query = urlsplit(target).path, {k: v[0] for k, v in parse_qs(urlsplit(target).query).items()}
        with self.lock:
            self.asked.append((method, path))
            if self.down:
                self.down -= 1
                return 503, {"message": "upstream connect error"}
            if headers.get("Authorization") != f"Bearer {TOKEN}":
                return 401, {"code": 16, "message": "Unauthenticated: the token is not valid"}
            fault = self.faults.pop(0) if self.faults and method == "POST" else None
            if isinstance(fault, int):
                return fault, {"code": 2, "message": "a fault of the tests"}
            try:
                status, value = self._do(method, path, query, headers, body)
            except BrokenContractError as error:
                self.broken.append(str(error))
                return 400, {"code": 3, "message": str(error)}
        if fault == "hang up":
            return None
        return (fault[1], {"message": "a fault of the tests"}) if isinstance(fault, tuple) else (status, value)

    def _do(self, method: str, path: str, query: dict[str, str], headers: Any, body: bytes) -> tuple[int, Any]:
        operation, ids = _route(method, path)
        known = {one["name"]: one for one in operation["parameters"]}
        if unknown := query.keys() - {name for name, one in known.items() if one["in"] == "query"}:
            raise BrokenContractError(f"{method} {path} takes no {sorted(unknown)}")
        form = next((one for one in operation["parameters"] if one["in"] == "formData"), None)
        given: Any = None
        if schema := next((one["schema"] for one in operation["parameters"] if one["in"] == "body"), None):
            given = json.loads(body)
            try:
                hold(given, schema)
            except jsonschema.ValidationError as error:
                raise BrokenContractError(f"{method} {path}: {error.message}") from error
        elif form is not None:
            given = _uploaded(headers, body, form["name"])
        status, value = getattr(self, "_" + operation["operationId"])(given, query, *ids)
        if status == 200:
            hold(value, operation["responses"]["200"]["schema"])
        return status, value

    def _new(self, kind: str, field: str, value: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        one = {**value, field: f"{kind}-{len(self.things[kind]) + 1}", "created_at": "2026-11-26T18:00:00Z"}
        self.things[kind][one[field]] = one
        return 200, one

    def _listed(self, kind: str, query: dict[str, str], of: str, **fields: str) -> tuple[int, dict[str, Any]]:
        wanted = dict(fields)
        filtered = json.loads(query.get("filter", "{}"))
        for predicate in filtered.get("predicates", []):
            assert predicate["operation"] == "EQUALS"
            wanted[predicate["key"]] = predicate.get("stringValue") or predicate["string_value"]
        found = [one for one in self.things[kind].values() if all(one.get(k) == v for k, v in wanted.items())]
        return 200, {of: found[: int(query.get("page_size", 10))], "total_size": len(found)}

    def _PipelineService_CreatePipeline(self, given: Any, query: Any) -> tuple[int, Any]:
        if any(one["name"] == given["name"] for one in self.things["pipelines"].values()):
            return 409, {"code": 6, "message": f"The name {given['name']} already exists"}
        return self._new("pipelines", "pipeline_id", given)

    def _PipelineService_GetPipelineByName(self, given: Any, query: Any, name: str) -> tuple[int, Any]:
        found = [one for one in self.things["pipelines"].values() if one["name"] == name]
        return (200, found[0]) if found else (404, {"code": 5, "message": "Pipeline not found"})

    def _PipelineService_ListPipelineVersions(self, given: Any, query: Any, pipeline: str) -> tuple[int, Any]:
        return self._listed("versions", query, "pipeline_versions", pipeline_id=pipeline)

    def _UploadPipelineVersion(self, given: Any, query: Any) -> tuple[int, Any]:
        value = {"pipeline_id": query["pipelineid"], "name": query["name"], "display_name": query["display_name"]}
        if query["pipelineid"] not in self.things["pipelines"]:
            return 404, {"code": 5, "message": "Pipeline not found"}
        status, one = self._new("versions", "pipeline_version_id", value)
        self.packages[one["pipeline_version_id"]] = list(
            yaml.load_all(given, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        )
        return status, one

    def _ExperimentService_ListExperiments(self, given: Any, query: Any) -> tuple[int, Any]:
        return self._listed("experiments", query, "experiments")

    def _ExperimentService_CreateExperiment(self, given: Any, query: Any) -> tuple[int, Any]:
        return self._new("experiments", "experiment_id", given)

    def _RunService_ListRuns(self, given: Any, query: Any) -> tuple[int, Any]:
        return self._listed("runs", query, "runs", experiment_id=query["experiment_id"])

    def _RunService_CreateRun(self, given: Any, query: Any) -> tuple[int, Any]:
        if given["pipeline_version_reference"]["pipeline_version_id"] not in self.things["versions"]:
            return 404, {"code": 5, "message": "PipelineVersion not found"}
        return self._new("runs", "run_id", {**given, "state": "PENDING"})

    def _RunService_GetRun(self, given: Any, query: Any, run: str) -> tuple[int, Any]:
        if run not in self.things["runs"]:
            return 404, {"code": 5, "message": f"Run {run} not found"}
        if self.looks:
            self.things["runs"][run].update(self.looks.pop(0))
        return 200, self.things["runs"][run]

    def _RecurringRunService_ListRecurringRuns(self, given: Any, query: Any) -> tuple[int, Any]:
        return self._listed("recurringruns", query, "recurringRuns", experiment_id=query["experiment_id"])

    def _RecurringRunService_CreateRecurringRun(self, given: Any, query: Any) -> tuple[int, Any]:
        if len(given["trigger"]["cron_schedule"]["cron"].split()) != 6:
            return 400, {"code": 3, "message": "Schedule cron is not supported"}
        return self._new("recurringruns", "recurring_run_id", given)

    def _RecurringRunService_DeleteRecurringRun(self, given: Any, query: Any, recurring: str) -> tuple[int, Any]:
        found = self.things["recurringruns"].pop(recurring, None)
        return (200, {}) if found else (404, {"code": 5, "message": "RecurringRun not found"})


def look(state: str, **tasks: str | tuple[str, str]) -> dict[str, Any]:
    """What a run is at one look: its state, and its tasks' states; of a failed task its error too."""
    details = []
    for number, (name, told) in enumerate(tasks.items()):
        task_state, error = told if isinstance(told, tuple) else (told, None)
        detail: dict[str, Any] = {"task_id": name, "display_name": name, "state": task_state}
        detail["start_time"] = f"2026-11-26T18:00:{number:02}Z"
        details.append(detail | ({"error": {"code": 2, "message": error}} if error else {}))
    return {"state": state, "run_details": {"task_details": details}}


def _route(method: str, path: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    for verb, pattern, operation in ROUTES:
        if verb == method and (match := pattern.fullmatch(path)):
            return operation, match.groups()
    raise BrokenContractError(f"the API has no {method} {path}")


def _uploaded(headers: Any, body: bytes, name: str) -> str:
    head = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    for part in message.iter_parts():
        if part.get_param("name", header="content-disposition") == name:
            return part.get_payload(decode=True).decode()
    raise BrokenContractError(f"no {name} in the upload")


@contextmanager
def running() -> Iterator[FakeKfp]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = kfp.answer(self.command, self.path, self.headers, body)
            if answer is None:
                self.close_connection = True
                return
            data = json.dumps(answer[1]).encode()
            self.send_response(answer[0])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_DELETE = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with LocalServer(("127.0.0.1", 0), Handler) as server:
        kfp = FakeKfp(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01}).start()
        try:
            yield kfp
        finally:
            server.shutdown()
    assert not kfp.broken, kfp.broken
