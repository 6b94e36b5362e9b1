"""The Kubernetes API as a rollout asks it: again where the server is busy, once where the answer is final."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from serm.errors import UserError
from serm.rollout.traffic.backend import Conflict
from serm.rollout.traffic.kubernetes import Cluster, ClusterOptions, client

PATH = "/apis/serving.kserve.io/v1beta1/namespaces/shop/inferenceservices/search"
FOUND = {"metadata": {"resourceVersion": "5"}, "spec": {}}


@pytest.fixture
def options(tmp_path: Path) -> ClusterOptions:
    (tmp_path / "token").write_text("secret\n")
    return ClusterOptions(server="http://api", token_file=str(tmp_path / "token"), retry_seconds=1e-6)


def cluster(options: ClusterOptions, *answers: httpx.Response | Exception) -> tuple[Cluster, list[httpx.Request]]:
    """A cluster whose server gives these answers, one after the other, and the requests that it got."""
    asked: list[httpx.Request] = []
    left = iter(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        one = next(left)
        if isinstance(one, Exception):
            raise one
        return one

    return Cluster(httpx.Client(transport=httpx.MockTransport(answer), base_url="http://api"), options), asked


def test_an_object_is_read_with_the_token_of_the_moment(options: ClusterOptions) -> None:
    api, asked = cluster(options, httpx.Response(200, json=FOUND), httpx.Response(200, json=FOUND))
    assert api.read(PATH) == FOUND
    Path(options.token_file).write_text("another")
    api.read(PATH)
    assert [one.headers["authorization"] for one in asked] == ["Bearer secret", "Bearer another"]
    assert [one.url.path for one in asked] == [PATH] * 2


def test_a_patch_is_for_the_version_that_was_read(options: ClusterOptions) -> None:
    api, asked = cluster(options, httpx.Response(200, json=FOUND), httpx.Response(409, json={}))
    change = {"metadata": {"annotations": {"a": "b"}}, "spec": {"percent": 5}}
    api.patch(PATH, change, "5")
    sent = json.loads(asked[0].content)
    assert sent == {"metadata": {"annotations": {"a": "b"}, "resourceVersion": "5"}, "spec": {"percent": 5}}
    assert asked[0].headers["content-type"] == "application/merge-patch+json"
    with pytest.raises(Conflict, match="somebody else changed it"):
        api.patch(PATH, change, "5")


@pytest.mark.parametrize("first", [httpx.Response(503), httpx.Response(429), httpx.ConnectError("refused")])
def test_a_server_that_is_busy_or_silent_is_asked_again(
    first: httpx.Response | Exception, options: ClusterOptions
) -> None:
    api, asked = cluster(options, first, first, httpx.Response(200, json=FOUND))
    assert api.read(PATH) == FOUND
    assert len(asked) == 3
    api, asked = cluster(options, *[first] * options.attempts)
    with pytest.raises(UserError, match=f"no answer in {options.attempts} attempts"):
        api.read(PATH)
    assert len(asked) == options.attempts


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (httpx.Response(404, json={}), "no such object"),
        (httpx.Response(403, json={}), r"the token may not do this \(HTTP 403\)"),
        (httpx.Response(422, json={"message": "spec.percent:\nmust be at most 100"}), "must be at most 100"),
        (httpx.Response(200, text="<html>"), "answers with no Kubernetes object"),
        (httpx.Response(200, json=[1]), "answers with no Kubernetes object"),
        (httpx.Response(200, json={"metadata": 1}), "answers with no Kubernetes object"),
        (httpx.Response(200, content=b"[" * 10_000_001), "answers with no Kubernetes object"),
    ],
)
def test_a_final_answer_is_one_sentence_after_one_request(
    answer: httpx.Response, told: str, options: ClusterOptions
) -> None:
    api, asked = cluster(options, answer)
    with pytest.raises(UserError, match=told) as raised:
        api.read(PATH)
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)
    assert len(asked) == 1


def test_what_a_pod_lacks_is_named(options: ClusterOptions, tmp_path: Path) -> None:
    Path(options.token_file).unlink()
    with pytest.raises(UserError, match=r"token: no readable token .*give token_file"):
        cluster(options)[0].read(PATH)
    secure = options.model_copy(update={"server": "https://api", "ca_file": str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match="nowhere: no readable certificates"), client(secure):
        pass
