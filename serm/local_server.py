"""HTTP for the pages and tools that this machine's own programs ask."""

from __future__ import annotations

import sys
from http.server import ThreadingHTTPServer
from typing import Any


class LocalServer(ThreadingHTTPServer):
    """A thread for each connection; one that its client lets go of is no error, and the terminal says nothing of it."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the traceback of a fault of ours alone."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)
