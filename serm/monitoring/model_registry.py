"""Kubeflow's Model Registry (API v1alpha3), told of each challenger that passed the gate.

Source: https://github.com/kubeflow/model-registry, api/openapi/model-registry.yaml. Its own Python client is not used:
it sets up the process's logging and event loop for itself, and takes a second registration for an error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Literal

import urllib3

from serm.errors import UserError

TOKEN = "SERM_MODEL_REGISTRY_TOKEN"
"""The environment variable that holds the bearer token, where the registry asks for one."""
PAUSE = 1.0
"""Seconds before a call that reads is made again; then twice, four times as many."""
_API = "/api/model_registry/v1alpha3"
_FIXES = {
    401: f"set {TOKEN} to a token that is valid now",
    403: "have the token's account allowed to register models",
    404: f"give in publish.model_registry the URL under which {_API}/registered_models answers",
}
Json = dict[str, Any]


def register(host: str, model: str, version: str, uri: str, told: Mapping[str, str]) -> str:
    """Register a version of a model and where its files lie, once; return the id of the version.

    Each of the three (model, version, artifact) is looked for by its name before it is made, so that a second call, or
    one after a lost answer, makes none twice.

    Args:
        host: the registry's URL.
        model: the registered model's name.
        version: the version's name, unique within the model.
        uri: of the model's files, as KServe takes it.
        told: custom properties of the version: DVC's tag, the commit, the gate's result.

    Raises:
        UserError: the registry did not take it, in one sentence with the fix.
    """
    registry = _Registry(host)
    texts = {name: {"metadataType": "MetadataStringValue", "string_value": text} for name, text in told.items()}
    found = registry.made("registered_model", "registered_models", {"name": model}, {"name": model})
    asked = {"name": version, "parentResourceId": found["id"]}
    wanted = {"name": version, "registeredModelId": found["id"], "author": "SERM", "customProperties": texts}
    one: str = registry.made("model_version", "model_versions", asked, wanted)["id"]
    files = {"artifactType": "model-artifact", "name": model, "uri": uri, "modelFormatName": "serm", "state": "LIVE"}
    registry.made("model_artifact", f"model_versions/{one}/artifacts", {"name": model, "parentResourceId": one}, files)
    return one


class _Registry:
    def __init__(self, host: str) -> None:
        token = os.environ.get(TOKEN, "").strip()
        if not token.isascii() or not token.isprintable() or " " in token:
            raise UserError(f"{TOKEN}: holds blanks, line ends or other signs that no token has.")
        self._host = host.rstrip("/")
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        # What reads is asked again; a redirect is a login page, and no answer of the registry's.
        retries = urllib3.Retry(3, redirect=0, backoff_factor=PAUSE, status_forcelist=(429, 502, 503, 504))
        self._http = urllib3.PoolManager(retries=retries, timeout=urllib3.Timeout(60, connect=10))

    def made(self, find: str, create: str, named: Json, wanted: Json) -> Json:
        """Return what has these names; it is created where there is none, or another call was faster."""
        found = self._asked("GET", find, named)
        if found is None:
            found = self._asked("POST", create, wanted) or self._asked("GET", find, named)
        if found is None:
            raise UserError(f"{self._host}: the Model Registry has {create} of that name, but shows none; try again.")
        return found

    def _asked(self, method: Literal["GET", "POST"], path: str, given: Json) -> Json | None:
        """Return the answer; None: there is none of that name (GET), or there is one already (POST)."""
        url = f"{self._host}{_API}/{path}"
        try:
            if method == "GET":
                answer = self._http.request(method, url, fields=given, headers=self._headers)
            else:
                answer = self._http.request(method, url, json=given, headers=self._headers)
        except urllib3.exceptions.HTTPError as error:
            reason = " ".join(str(getattr(error, "reason", None) or error).split())[:200]
            raise UserError(
                f"{self._host}: no answer of the Model Registry about {path} ({reason}); see that"
                " publish.model_registry is right and it is up, then run `serm publish` again."
            ) from error
        if answer.status == {"GET": 404, "POST": 409}[method] and _says_why(answer.data):
            return None
        if answer.status not in (200, 201):
            said = " ".join(answer.data.decode("utf-8", "replace").split())[:200]
            fix = _FIXES.get(answer.status, "look at its logs")
            raise UserError(f"{self._host}: the Model Registry did not do {path} ({answer.status}: {said}); {fix}.")
        try:
            found: Json = json.loads(answer.data)
            return {**found, "id": str(found["id"])}
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{self._host}: what answered is not the Model Registry's API; {_FIXES[404]}.") from error


def _says_why(body: bytes) -> bool:
    """Whether an answer is the registry's own, which has a code and a message, and not a proxy's page."""
    try:
        told = json.loads(body)
    except ValueError:
        return False
    return isinstance(told, dict) and "message" in told
