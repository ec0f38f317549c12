"""What the stand-ins for the Hub share: a server on a free port for the length of a `with` block, and answers in JSON or bytes."""

import json
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class LocalServer:
    def __init__(self, handler: type["Handler"]) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (handler,), {"server_hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Handler(BaseHTTPRequestHandler):
    """`server_hub`: the LocalServer that it answers for."""

    protocol_version = "HTTP/1.1"
    server_hub: Any

    def log_message(self, *_: object) -> None:
        return

    def reset(self) -> None:
        """The connection breaks, as when a machine in between has forgotten it."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def answer(
        self, status: int, content: Any = None, data: bytes | None = None, short: bool = False, **headers: str
    ) -> None:
        """`content` as JSON, or `data`; `short`: half of it, then the connection breaks."""
        data = json.dumps(content).encode() if data is None else data
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if short else data)
            if short:
                self.wfile.flush()
                self.reset()
