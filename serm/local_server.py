"""HTTP for the pages and tools that this machine's own programs ask."""

from __future__ import annotations

import socket
import sys
from http.server import ThreadingHTTPServer
from typing import Any


class LocalServer(ThreadingHTTPServer):
    """A thread for each connection; one that its client lets go of is no error, and the terminal says nothing of it."""

    daemon_threads = True

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection that does not hold back an answer's body until its headers are acknowledged.

        A handler writes the two apart; on a connection that is kept, a client acknowledges the first after 40 ms.
        """
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the traceback of a fault of ours alone."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)
