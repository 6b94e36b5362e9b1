"""A client that lets go of its connection is no error of a server on this machine."""

from __future__ import annotations

import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler

import pytest

from serm.local_server import LocalServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/fault":
            raise ZeroDivisionError
        self.send_response_only(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")


@pytest.mark.parametrize(("path", "said"), [("/", ""), ("/fault", "ZeroDivisionError")])
def test_a_connection_that_is_reset_is_not_told_and_a_fault_is(
    path: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = threading.Event()

    class Server(LocalServer):
        def shutdown_request(self, request: object) -> None:
            super().shutdown_request(request)
            ended.set()

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with socket.create_connection(server.server_address[:2]) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            if path == "/":
                assert client.makefile("rb").read(len("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")).endswith(b"ok")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() resets
        assert ended.wait(10)
        server.shutdown()
    told = capfd.readouterr().err
    assert (said in told) if said else (told == "")


def test_a_body_does_not_wait_for_its_headers_to_be_acknowledged() -> None:
    found: list[int] = []

    class Told(Handler):
        def do_GET(self) -> None:
            found.append(self.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            super().do_GET()

    with LocalServer(("127.0.0.1", 0), Told) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with socket.create_connection(server.server_address[:2]) as client:
            client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert client.recv(100)
        server.shutdown()
    assert found[0]
