"""git repositories behind real sockets: git's own server program behind HTTP, and behind SSH."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

import asyncssh

from serm.local_server import LocalServer


class Server(BaseHTTPRequestHandler):
    """git's own server program behind /git, a DVC remote behind /remote, both below ``root``."""

    root: Path
    asked: list[str]

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.asked.append(url.path)
        if url.path.startswith("/git/"):
            self._git(url.path, url.query)
            return
        file = self.root / url.path.lstrip("/")
        self._answer(200 if file.is_file() else 404, {}, file.read_bytes() if file.is_file() else b"")

    do_HEAD = do_POST = do_GET

    def _git(self, path: str, query: str) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        environment = {
            **os.environ,
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "GIT_PROTOCOL": self.headers.get("git-protocol", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=True)
        head, _, data = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self._answer(int(headers.pop("Status", "200").split()[0]), headers, data)

    def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def over_http(root: Path) -> Iterator[str]:
    """Serve ``root/git`` as ``<address>/git``; a repository takes pushes that says http.receivepack."""
    handler = type("Handler", (Server,), {"root": root, "asked": []})
    server = LocalServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def over_ssh(root: Path) -> Iterator[tuple[str, str]]:
    """Serve every path of this machine to git over SSH: yields the address, and the GIT_SSH_COMMAND that may enter."""
    host, user = asyncssh.generate_private_key("ssh-ed25519"), asyncssh.generate_private_key("ssh-ed25519")
    key = root / "key"
    user.write_private_key(str(key))
    key.chmod(0o600)
    started, stop = threading.Event(), threading.Event()
    ports: list[int] = []

    async def handle(process: asyncssh.SSHServerProcess[bytes]) -> None:
        assert process.command is not None
        done = await asyncio.create_subprocess_shell(process.command, stdin=-1, stdout=-1, stderr=-1)
        await process.redirect(stdin=done.stdin, stdout=done.stdout, stderr=done.stderr)
        process.exit(await done.wait())

    async def serve() -> None:
        allowed = asyncssh.import_authorized_keys(user.export_public_key().decode())
        server = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[host],
            authorized_client_keys=allowed,
            process_factory=handle,
            encoding=None,
        )
        ports.append(server.get_port())
        started.set()
        while not stop.is_set():
            await asyncio.sleep(0.05)
        server.close()

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    started.wait(30)
    options = "-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    try:
        yield f"ssh://git@127.0.0.1:{ports[0]}", f"ssh -i {key} {options}"
    finally:
        stop.set()
        thread.join(30)
