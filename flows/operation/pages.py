"""A small web server for the HTML reports of a root, so that pages of the Prefect UI can link to them.

Read-only, on 127.0.0.1 alone, and nothing but what lies in the folder.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pipeline.errors import ConfigError
from pipeline.naming import reports_dir

REPORTS_PORT: Final = 4280
_NAMES_OF_THIS_MACHINE: Final = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'self' 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@contextmanager
def serving_reports(root: Path, port: int = REPORTS_PORT) -> Iterator[str]:
    """Serve `<root>/reports` while the context is open, and give its address. Port 0: any that is free.

    Raises
    ------
    ConfigError
        The port is taken.
    """
    folder = reports_dir(root).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise ConfigError(
            f"cannot serve reports on port {port}: {error.strerror}; choose another with --reports-port"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="reports", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(SimpleHTTPRequestHandler):
    """GET and HEAD of files and folders below the directory; not of what links lead out of it."""

    server_version = "s82"
    sys_version = ""
    timeout = 30

    def send_head(self) -> Any:
        """As the standard library's, after two questions: was this machine asked for, and is the file inside?"""
        if not self._asked_for_this_machine():
            self.send_error(421, "this server answers to 127.0.0.1 and localhost")
            return None
        inside = Path(self.directory).resolve()
        if not Path(self.translate_path(self.path)).resolve().is_relative_to(inside):
            self.send_error(404, "File not found")
            return None
        return super().send_head()

    def end_headers(self) -> None:
        """Nothing that a report contains may run or be sent anywhere."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        """Who reads which page is nobody's concern."""

    def _asked_for_this_machine(self) -> bool:
        """Else a page of a stranger, whose name leads here, could have the browser read the reports to it."""
        return urlsplit(f"//{self.headers.get('Host', '')}").hostname in _NAMES_OF_THIS_MACHINE
