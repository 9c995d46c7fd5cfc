"""An HTTP server that answers as a test has written down, request by request, and remembers what came."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. `cut` ends the connection after the body, or before any byte if there is no status."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


def answer(value: Any, status: int = 200, **headers: str) -> Reply:
    """A whole answer in JSON."""
    return Reply(status, json.dumps(value).encode(), headers)


def problem(status: int, code: str, **headers: str) -> Reply:
    """A problem, as the API answers."""
    body = {"status": status, "code": code, "detail": f"because {code}", "request_id": "r-1"}
    return answer({**body, "type": f"/problems/{code}", "remedy": f"mend {code}"}, status, **headers)


LOST = Reply(0, cut=True)
"""The connection is cut without an answer."""


@dataclass(slots=True)
class Scripted:
    """The server: where it listens, what it will answer, what it was asked."""

    url: str
    replies: list[Reply]
    requests: list[Request]


@contextmanager
def scripted(*replies: Reply, port: int = 0) -> Iterator[Scripted]:
    """Serves these answers in order."""
    waiting = list(replies)
    requests: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            size = int(self.headers.get("content-length", "0"))
            raw = self.rfile.read(size)
            headers = {name.lower(): value for name, value in self.headers.items()}
            requests.append(Request(self.command, self.path, headers, json.loads(raw) if raw else None))
            reply = waiting.pop(0)
            self.close_connection = reply.cut
            if reply.status == 0:
                return
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name.replace("_", "-"), value)
            if not reply.cut:
                self.send_header("content-length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 (names that http.server looks for)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Scripted(f"http://127.0.0.1:{server.server_address[1]}", waiting, requests)
        finally:
            server.shutdown()
            thread.join()
