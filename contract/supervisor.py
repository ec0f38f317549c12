"""Calls to supervisord over its unix socket, each with a time-out.

supervisor's own transport has no time-out, and a supervisord that does not answer must be an observation, not a hang.
"""

import http.client
import socket
import xmlrpc.client
from pathlib import Path
from typing import Any

from adam.contract.errors import AdamError, NotRunningError, TimeoutExpired

CALL_TIMEOUT_S = 5.0


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            sock.connect(str(self._path))
        except OSError:
            sock.close()
            raise
        self.sock = sock


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__()
        self._path, self._timeout = path, timeout

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        del host  # there is one address: the socket's
        return _Connection(self._path, self._timeout)


class Supervisor:
    """The supervisord of one run.

    Every method raises NotRunningError where nobody listens, TimeoutExpired where supervisord does not answer in time,
    AdamError with supervisord's own words for the rest.
    """

    def __init__(self, socket_path: Path, timeout: float = CALL_TIMEOUT_S) -> None:
        self._path, self._timeout = socket_path, timeout

    def _call(self, method: str, *args: Any) -> Any:
        server = xmlrpc.client.ServerProxy(
            "http://localhost", transport=_Transport(self._path, self._timeout), allow_none=True
        )
        try:
            return getattr(server, method)(*args)
        except (FileNotFoundError, ConnectionError, http.client.RemoteDisconnected):
            raise NotRunningError(
                f"no supervisord answers at {self._path}", "start the run with `adamctl up`"
            ) from None
        except TimeoutError:
            raise TimeoutExpired(
                f"supervisord at {self._path} did not answer {method} in {self._timeout:g} s"
            ) from None
        except xmlrpc.client.Fault as fault:
            raise AdamError(f"supervisord refused {method}{args}: {fault.faultString}") from None

    def pid(self) -> int:
        return int(self._call("supervisor.getPID"))

    def program(self, name: str) -> tuple[str, int]:
        """(state such as RUNNING, EXITED, STOPPED; pid, 0 where it does not run)."""
        info = self._call("supervisor.getProcessInfo", name)
        return str(info["statename"]), int(info["pid"])

    def start(self, name: str) -> None:
        """Start a program; returns when it is spawned."""
        self._call("supervisor.startProcess", name, False)

    def stop(self, name: str) -> None:
        """Ask a program to stop; does not wait for it."""
        self._call("supervisor.stopProcess", name, False)

    def shutdown(self) -> None:
        """Ask supervisord to stop everything and end; does not wait for it."""
        self._call("supervisor.shutdown")
