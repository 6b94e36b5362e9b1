"""The API server as the user's kubeconfig reaches it, or as a pod does: asked, never changed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from serm.errors import UserError

RETRIES = 3
"""Attempts where the server is busy or fails."""
TIMEOUT_SECONDS = 10.0
LONGEST_ANSWER = 50_000_000


class Refused(Exception):
    """The caller may not read this (403)."""


class Missing(Exception):
    """The server knows no such thing (404)."""


class Api:
    """Answers of one API server, as JSON."""

    def __init__(self, client: Any, retry_seconds: float = 1.0) -> None:
        """Ask through ``client``, a ``kubernetes.client.ApiClient``."""
        self._client = client
        self._retry_seconds = retry_seconds
        self.server: str = client.configuration.host

    def get(self, path: str) -> dict[str, Any]:
        """Return what lies at a path, such as ``/apis``.

        Raises:
            Refused: the caller may not read it.
            Missing: it is not there.
            UserError: the server does not know the caller, or does not answer.
        """
        return self._ask("GET", path, None)

    def may(self, verb: str, group: str, resource: str, namespace: str) -> bool:
        """Return whether the caller may do this (SelfSubjectAccessReview); raises as ``get`` does."""
        asked = {"verb": verb, "group": group, "resource": resource, "namespace": namespace}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        answer = self._ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
        return bool((answer.get("status") or {}).get("allowed"))

    def _ask(self, method: str, path: str, body: Any) -> dict[str, Any]:
        told = ""
        for attempt in range(RETRIES):
            if attempt:
                time.sleep(self._retry_seconds * 2**attempt)
            status, text = self._send(method, path, body)
            if status in (403, 404):
                raise (Refused if status == 403 else Missing)(path)
            if status == 401:
                raise UserError(
                    f"{self.server}: does not know you (HTTP 401): your token is wrong or has expired; log in again, "
                    "or take another --context."
                )
            if 200 <= status < 300:
                return self._object(text, path)
            told = f"HTTP {status}" if status else text
            if status and status < 500 and status != 429:
                break
        raise UserError(f"{self.server}{path}: gives no answer ({told[:200]}); look at the cluster, or the --context.")

    def _send(self, method: str, path: str, body: Any) -> tuple[int, str]:
        """Return the status and the body, or 0 and what is wrong with the connection."""
        import urllib3
        from kubernetes.client.exceptions import ApiException

        try:
            response = self._client.call_api(
                path,
                method,
                header_params={"Accept": "application/json", "Content-Type": "application/json"},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=TIMEOUT_SECONDS,
            )
            return response.status, response.read(LONGEST_ANSWER + 1).decode("utf-8", "replace")
        except ApiException as error:
            return int(error.status or 0), " ".join(str(error.reason).split())
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return 0, " ".join(f"{type(error).__name__}: {error}".split())

    def _object(self, text: str, path: str) -> dict[str, Any]:
        try:
            found = json.loads(text) if len(text) <= LONGEST_ANSWER else None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise UserError(f"{self.server}{path}: answers with no Kubernetes object; is it the API server?")
        return found


def connect(kubeconfig: Path | None = None, context: str | None = None, retry_seconds: float = 1.0) -> Api:
    """Return the API server that the kubeconfig's context names; without any, that of the pod this runs in.

    Raises:
        UserError: there is no kubeconfig and this is no pod, or it names no such context.
    """
    from kubernetes import client, config

    configuration = client.Configuration()
    try:
        try:
            named = None if kubeconfig is None else str(kubeconfig)
            config.load_kube_config(named, context, client_configuration=configuration, persist_config=False)
        except config.ConfigException:
            if kubeconfig is not None or context is not None:
                raise
            config.load_incluster_config(client_configuration=configuration)
    except (config.ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(
            f"{kubeconfig or 'kubeconfig'}: no cluster in it ({why}); give --kubeconfig and --context, as for kubectl."
        ) from error
    configuration.retries = False  # ours tell what was wrong
    return Api(client.ApiClient(configuration), retry_seconds)
