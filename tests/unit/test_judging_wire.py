"""What a stranger's endpoint answers: bounded as sent and as unpacked, followed nowhere, given no cookie back."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import httpx
import pytest

from serm.judging.wire import Unreadable, client, exchange

MOST = 1000


def answered(body: bytes, encoding: str | None = None) -> bytes:
    """What is read of an answer."""

    async def ask() -> bytes:
        headers = {} if encoding is None else {"content-encoding": encoding}
        transport = httpx.MockTransport(lambda _: httpx.Response(200, headers=headers, stream=httpx.ByteStream(body)))
        async with httpx.AsyncClient(transport=transport) as http:
            return (await exchange(http, http.build_request("GET", "http://stranger/"), MOST))[1]

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("pack", "encoding"),
    [
        (bytes, None),
        (bytes, "identity"),
        (gzip.compress, " GZip "),
        (gzip.compress, "x-gzip"),
        (zlib.compress, "deflate"),
    ],
)
def test_an_answer_of_the_greatest_length_is_read_however_it_is_packed(pack, encoding) -> None:
    body = b"x" * MOST
    assert answered(pack(body), encoding) == body


@pytest.mark.parametrize(
    ("body", "encoding", "why"),
    [
        (b"x" * (MOST + 1), None, "more than 1,000 bytes$"),
        (gzip.compress(b"x" * 10_000_000)[:MOST], "gzip", "more than 1,000 bytes, unpacked"),
        (gzip.compress(b"x" * (MOST + 1)), "gzip", "more than 1,000 bytes, unpacked"),
        (b"no gzip", "gzip", "cannot be unpacked"),
        (b"x", "br", "was not asked for"),
        (gzip.compress(gzip.compress(b"x")), "gzip, gzip", "was not asked for"),
    ],
    ids=["plain", "a bomb", "unpacked", "no gzip", "brotli", "twice"],  # a packed body holds the time
)
def test_a_longer_answer_or_one_packed_otherwise_is_unreadable(body: bytes, encoding: str | None, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        answered(body, encoding)


def test_a_client_follows_no_redirect_and_keeps_no_cookie() -> None:
    async def settings() -> tuple[bool, str | None, int]:
        async with client({"Authorization": "Bearer key"}) as http:
            request = http.build_request("GET", "http://stranger/")
            answer = httpx.Response(200, headers={"set-cookie": "who=us"}, request=request)
            http.cookies.extract_cookies(answer)
            return http.follow_redirects, request.headers.get("accept-encoding"), len(http.cookies)

    assert asyncio.run(settings()) == (False, "identity", 0)
