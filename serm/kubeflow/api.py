"""Kubeflow Pipelines' API (v2beta1), asked so that a fault on the way neither ends a call nor makes anything twice.

Source: KFP's own generated client, kfp_server_api, whose contract is kfp_api.swagger.json. ``kfp.Client`` stands above
it and is not used: it looks for kubeconfigs and tokens when it is made, and it gives up at the first 503.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import kfp_server_api
import urllib3
from kfp_server_api.rest import ApiException

from serm.errors import UserError
from serm.settings import KubeflowSettings

TOKEN = "SERM_KFP_TOKEN"
"""The environment variable that holds the bearer token."""
PAUSES = (1.0, 4.0, 15.0, 30.0)
"""Seconds before a call is made again after a lost connection or a server's error; then it fails."""
_TIMEOUT = (10, 60)
_AGAIN = {408, 429, 500, 502, 503, 504}
_FIXES = {
    400: "mend what it says",
    401: f"set {TOKEN} to a token that is valid now, or kubeflow.token_file to a file that holds one",
    403: "have the token's account allowed to use pipelines in kubeflow.namespace, or name another namespace",
    404: "give the API's URL in kubeflow.host: the one under which .../apis/v2beta1/healthz answers",
    409: "take it away, or give another name",
    413: "allow larger requests in the proxy before KFP",
}
T = TypeVar("T")


class Unanswered(UserError):
    """A call whose answer did not come, or was a server's error: what it asked for may have been done."""


class Conflict(UserError):
    """The server has something of that name already."""


class Missing(UserError):
    """The server has nothing of that name."""


class Pipelines:
    """The calls that ``serm submit`` makes.

    What only reads is made again after a lost connection or a server's error. Before what creates is made again, its
    result is looked for under its own name.

    Args:
        settings: host, namespace, token_file and ca_file are read.
        host: the API's URL.

    Raises:
        UserError: from each method, in one sentence, what the server did not do and the fix.
    """

    def __init__(self, settings: KubeflowSettings, host: str) -> None:
        configuration = kfp_server_api.Configuration(host=host.rstrip("/"))
        if settings.ca_file and not Path(settings.ca_file).is_file():
            raise UserError(f"params.yaml: kubeflow.ca_file: {settings.ca_file}: no such file; give a PEM file.")
        configuration.ssl_ca_cert = settings.ca_file or None
        configuration.api_key_prefix["authorization"] = "Bearer"
        # A proxy that sends people to a login page answers with a redirect: that is no answer of KFP.
        configuration.retries = urllib3.Retry(0, raise_on_redirect=False)
        client = kfp_server_api.ApiClient(configuration)
        self.host, self._namespace = configuration.host, settings.namespace
        self._configuration, self._token_file = configuration, Path(settings.token_file)
        self._pipelines = kfp_server_api.PipelineServiceApi(client)
        self._uploads = kfp_server_api.PipelineUploadServiceApi(client)
        self._experiments = kfp_server_api.ExperimentServiceApi(client)
        self._runs = kfp_server_api.RunServiceApi(client)
        self._schedules = kfp_server_api.RecurringRunServiceApi(client)

    def pipeline(self, name: str, description: str) -> str:
        """Return the id of the pipeline ``name``, which is made where there is none."""
        wanted = kfp_server_api.V2beta1Pipeline(
            name=name, display_name=name, description=description, namespace=self._namespace or None
        )
        create = partial(self._pipelines.pipeline_service_create_pipeline, wanted)
        made: str = self._found_or_made(partial(self._pipeline, name), create, f"the pipeline {name}").pipeline_id
        return made

    def version(self, pipeline_id: str, name: str, file: Path, description: str) -> str:
        """Return the id of the version ``name`` of a pipeline; the file is uploaded where there is none."""
        listed = partial(self._pipelines.pipeline_service_list_pipeline_versions, pipeline_id)
        find = partial(self._named, listed, name, "pipeline_versions")
        upload = partial(
            self._uploads.upload_pipeline_version,
            str(file),
            name=name,
            display_name=name,
            pipelineid=pipeline_id,
            description=description,
        )
        made: str = self._found_or_made(find, upload, f"the pipeline version {name}").pipeline_version_id
        return made

    def experiment(self, name: str) -> str:
        """Return the id of the experiment ``name``, which is made where there is none."""
        listed = partial(self._experiments.experiment_service_list_experiments, **self._in_namespace())
        wanted = kfp_server_api.V2beta1Experiment(display_name=name, namespace=self._namespace or None)
        create = partial(self._experiments.experiment_service_create_experiment, wanted)
        find = partial(self._named, listed, name, "experiments")
        made: str = self._found_or_made(find, create, f"the experiment {name}").experiment_id
        return made

    def start(self, run: kfp_server_api.V2beta1Run) -> str:
        """Start ``run``, whose display_name nobody else uses, once; return its id."""
        listed = partial(self._runs.run_service_list_runs, experiment_id=run.experiment_id)
        find = partial(self._named, listed, run.display_name, "runs")
        create = partial(self._runs.run_service_create_run, run)
        started: str = self._made(find, create, f"the run {run.display_name}").run_id
        return started

    def run(self, run_id: str) -> Any:
        """Return a run as it is now (V2beta1Run)."""
        try:
            return self._asked(partial(self._runs.run_service_get_run, run_id), f"the run {run_id}")
        except Missing as error:
            raise UserError(
                f"{self.host}: there is no run {run_id}; it was deleted, or is another server's. What it published"
                " before stays."
            ) from error

    def schedules(self, name: str, experiment_id: str) -> list[Any]:
        """Return the schedules (V2beta1RecurringRun) of that name."""
        listed = partial(self._schedules.recurring_run_service_list_recurring_runs, experiment_id=experiment_id)
        return list(self._all_named(listed, name, "recurring_runs"))

    def schedule(self, recurring: kfp_server_api.V2beta1RecurringRun, besides: list[str]) -> str:
        """Make a schedule once, beside those of its name whose ids are given; return its id."""

        def find() -> Any:
            there = self.schedules(recurring.display_name, recurring.experiment_id)
            return next((one for one in there if one.recurring_run_id not in besides), None)

        create = partial(self._schedules.recurring_run_service_create_recurring_run, recurring)
        made: str = self._made(find, create, f"the schedule {recurring.display_name}").recurring_run_id
        return made

    def unschedule(self, recurring_run_id: str) -> None:
        """Take a schedule away; one that is gone already is no error."""
        delete = partial(self._schedules.recurring_run_service_delete_recurring_run, recurring_run_id)
        try:
            self._asked(delete, f"the schedule {recurring_run_id}")
        except Missing:
            return

    def _pipeline(self, name: str) -> Any:
        get = partial(self._pipelines.pipeline_service_get_pipeline_by_name, name, **self._in_namespace())
        try:
            return self._asked(get, f"the pipeline {name}")
        except Missing:
            return None

    def _in_namespace(self) -> dict[str, str]:
        return {"namespace": self._namespace} if self._namespace else {}

    def _named(self, listed: Callable[..., Any], name: str, of: str) -> Any:
        return next(iter(self._all_named(listed, name, of)), None)

    def _all_named(self, listed: Callable[..., Any], name: str, of: str) -> list[Any]:
        predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
        ask = partial(listed, filter=json.dumps({"predicates": [predicate]}), page_size=100, sort_by="created_at desc")
        found = getattr(self._asked(ask, f"{of.replace('_', ' ')} called {name}"), of) or []
        return [one for one in found if one.display_name == name]

    def _found_or_made(self, find: Callable[[], T | None], create: Callable[..., T], what: str) -> T:
        found = find()
        return self._made(find, create, what) if found is None else found

    def _made(self, find: Callable[[], T | None], create: Callable[..., T], what: str) -> T:
        """Create; where it may have been done without a word, look for it before it is done again."""
        for pause in (*PAUSES, None):
            try:
                return self._once(create, what)
            except (Unanswered, Conflict) as error:
                if pause is not None:
                    time.sleep(pause)  # a server that was still at it is to have ended
                if (found := find()) is not None:
                    return found
                if pause is None or isinstance(error, Conflict):
                    raise
        raise AssertionError("the last try returns or raises")

    def _asked(self, call: Callable[..., T], what: str) -> T:
        """Make a call that may be made twice."""
        for pause in PAUSES:
            try:
                return self._once(call, what)
            except Unanswered:
                time.sleep(pause)
        return self._once(call, what)

    def _once(self, call: Callable[..., T], what: str) -> T:
        token = _token(self._token_file)
        self._configuration.api_key = {"authorization": token} if token else {}
        try:
            return call(_request_timeout=_TIMEOUT)
        except ApiException as error:
            raise self._told(error, what) from error
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", None) or error
            raise Unanswered(
                f"{self.host}: no answer about {what} ({_short(reason)}); see that its address is right and KFP is up."
            ) from error
        except ValueError as error:  # an answer that is not the API's: a login page, a proxy's error page
            raise UserError(
                f"{self.host}: what answered about {what} is not KFP's API ({_short(error)}); {_FIXES[404]}."
            ) from error

    def _told(self, error: ApiException, what: str) -> UserError:
        status = int(error.status or 0)
        said = _message(error)
        if 300 <= status < 400:
            status, said = 401, "it sends to a login page"
        kind = {404: Missing, 409: Conflict}.get(status, Unanswered if status in _AGAIN else UserError)
        fix = _FIXES.get(status, "look at the logs of its ml-pipeline deployment" if status >= 500 else _FIXES[404])
        return kind(f"{self.host}: KFP did not do {what} ({status or 'TLS'}: {said}); {fix}.")


def _token(file: Path) -> str:
    """Return the bearer token as it is now: a mounted one is renewed by the cluster while it lies there."""
    token = os.environ.get(TOKEN, "").strip()
    if not token and file.is_file():
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: the token cannot be read ({error}); set {TOKEN}.") from error
    if any(character.isspace() or not character.isprintable() for character in token):
        raise UserError(f"{TOKEN} or {file}: holds blanks or line ends within, which no token has.")
    return token


def _message(error: ApiException) -> str:
    body = error.body if isinstance(error.body, str) else (error.body or b"").decode("utf-8", "replace")
    try:
        said = json.loads(body)
        said = said.get("message") or said.get("error") or body
    except (ValueError, AttributeError):
        said = body or error.reason
    return _short(said)


def _short(said: object) -> str:
    return " ".join(str(said).split())[:300] or "it did not say why"
