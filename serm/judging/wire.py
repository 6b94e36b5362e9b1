"""HTTP with endpoints that are not to be trusted: bounded, followed nowhere, told nothing beside the request."""

from __future__ import annotations

import logging
import zlib
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

# It logs each request with what the endpoint calls its status: noise, and a stranger's words.
logging.getLogger("httpx").setLevel(logging.WARNING)


class Unreadable(Exception):
    """An answer is longer than its bound, or packed in a way that was not asked for."""


def client(headers: dict[str, str] | None = None) -> httpx.AsyncClient:
    """Return a client that follows no redirect, keeps no cookie and asks for no compression.

    Of the environment it takes the machine's proxies and certificates, and nothing that is sent to the endpoint.
    """
    return httpx.AsyncClient(
        headers={"User-Agent": "serm", "Accept": "application/json", "Accept-Encoding": "identity", **(headers or {})},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        timeout=None,  # the caller's asyncio.timeout bounds the whole exchange: these would be for each part of it
        limits=httpx.Limits(max_connections=None),
    )


async def exchange(http: httpx.AsyncClient, request: httpx.Request, most: int) -> tuple[httpx.Response, bytes]:
    """Send a request and read its answer, at most ``most`` bytes, compressed or not.

    Raises:
        Unreadable: the answer is longer, or packed in another way than gzip or deflate.
        httpx.HTTPError: there is no whole answer.
    """
    response = await http.send(request, stream=True)
    try:
        raw = bytearray()
        async for part in response.aiter_raw():
            raw += part
            if len(raw) > most:
                raise Unreadable(f"an answer of more than {most:,} bytes")
    finally:
        await response.aclose()
    return response, _unpacked(bytes(raw), response.headers.get("content-encoding", ""), most)


def _unpacked(raw: bytes, encoding: str, most: int) -> bytes:
    match encoding.strip().casefold():
        case "" | "identity":
            return raw
        case "gzip" | "x-gzip" | "deflate":
            unpacker = zlib.decompressobj(32 + zlib.MAX_WBITS)  # either header
        case _:
            raise Unreadable("an answer in a content-encoding that was not asked for")
    try:
        whole = unpacker.decompress(raw, most + 1)
    except zlib.error as error:
        raise Unreadable("an answer that cannot be unpacked") from error
    if len(whole) > most:
        raise Unreadable(f"an answer of more than {most:,} bytes, unpacked")
    return whole
