"""A Kubernetes API server, as far as a rollout needs it: read one object, and patch it if nobody else did since."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from serm.errors import UserError
from serm.rollout.traffic.backend import Conflict
from serm.settings.section import Count, Positive, Section

_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_RETRIES = 4
_LONGEST_ANSWER = 10_000_000
ANNOTATION = "serm/rollout"
"""Holds the experiment's name on the object that splits its traffic."""


class ClusterOptions(Section):
    """How to reach the API server; the defaults are those of a pod."""

    server: str = "https://kubernetes.default.svc"
    token_file: str = f"{_ACCOUNT}/token"
    """A bearer token, read anew for each request: the cluster changes it."""
    ca_file: str = f"{_ACCOUNT}/ca.crt"
    timeout_seconds: Positive = 10.0
    retry_seconds: Positive = 0.5
    """Before the first new attempt where the server is busy or fails; twice as long before each next one."""
    attempts: Count = _RETRIES


@contextmanager
def client(options: ClusterOptions) -> Iterator[Cluster]:
    """Yield the API server; no proxy of the environment is asked.

    Raises:
        UserError: the authority's certificate cannot be read.
    """
    import ssl

    secure = options.server.startswith("https://")
    try:
        verify = ssl.create_default_context(cafile=options.ca_file) if secure else False
    except OSError as error:
        raise UserError(f"{options.ca_file}: no readable certificates ({error}); give ca_file.") from error
    with httpx.Client(
        base_url=options.server, verify=verify, timeout=options.timeout_seconds, trust_env=False
    ) as connection:
        yield Cluster(connection, options)


class Cluster:
    """Reads and patches objects by their path, such as ``/apis/GROUP/VERSION/namespaces/NS/PLURAL/NAME``."""

    def __init__(self, connection: httpx.Client, options: ClusterOptions) -> None:
        self._connection = connection
        self._options = options

    def read(self, path: str) -> dict[str, Any]:
        """Return an object.

        Raises:
            UserError: there is none, it may not be read, or the server does not answer or fails again and again.
        """
        response = self._send("GET", path, None)
        return self._object(response, path)

    def patch(self, path: str, change: Mapping[str, Any], version: str) -> dict[str, Any]:
        """Merge ``change`` into the object if its resourceVersion is still ``version``, and return it.

        Where an attempt's answer was lost, the next one meets a conflict that may be its own doing: the caller reads.

        Raises:
            Conflict: it has another version by now.
            UserError: as ``read``.
        """
        body = {**change, "metadata": {**change.get("metadata", {}), "resourceVersion": version}}
        response = self._send("PATCH", path, body)
        if response.status_code == httpx.codes.CONFLICT:
            raise Conflict(f"{path}: somebody else changed it since it was read; nothing was changed.")
        return self._object(response, path)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        """Send a request, again where the server is busy, fails or is silent: an object's version makes that safe."""
        wait = self._options.retry_seconds
        told = ""
        for attempt in range(self._options.attempts):
            if attempt:
                time.sleep(wait)
                wait *= 2
            try:
                response = self._connection.request(method, path, headers=self._headers(method), json=body)
            except httpx.HTTPError as error:
                told = f"{type(error).__name__}: {error}"
                continue
            if response.status_code < 500 and response.status_code != httpx.codes.TOO_MANY_REQUESTS:
                return response
            told = f"HTTP {response.status_code}"
        raise UserError(
            f"{self._options.server}{path}: the Kubernetes API gave no answer in {self._options.attempts} attempts, "
            f"at last {' '.join(told.split())[:200]}; look at the cluster, then run this again."
        )

    def _headers(self, method: str) -> dict[str, str]:
        headers = {"Accept": "application/json"}
        if method == "PATCH":
            headers["Content-Type"] = "application/merge-patch+json"
        try:
            headers["Authorization"] = f"Bearer {Path(self._options.token_file).read_text(encoding='ascii').strip()}"
        except (OSError, ValueError) as error:
            raise UserError(f"{self._options.token_file}: no readable token ({error}); give token_file.") from error
        return headers

    def _object(self, response: httpx.Response, path: str) -> dict[str, Any]:
        where = f"{self._options.server}{path}"
        if response.status_code == httpx.codes.NOT_FOUND:
            raise UserError(f"{where}: no such object; apply the manifest of the deploy step, or mend the name.")
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise UserError(
                f"{where}: the token may not do this (HTTP {response.status_code}); its role needs get and patch."
            )
        try:
            found = response.json() if len(response.content) <= _LONGEST_ANSWER else None
        except ValueError:
            found = None
        if not response.is_success:
            reason = found.get("message") if isinstance(found, dict) else None
            raise UserError(f"{where}: refused (HTTP {response.status_code}): {' '.join(str(reason).split())[:300]}.")
        if not isinstance(found, dict) or not isinstance(found.get("metadata"), dict):
            raise UserError(f"{where}: answers with no Kubernetes object; is it the API server?")
        return found
