"""Sockets, keys, and the process that serves: closed to other machines unless a key is asked."""

import ipaddress
import socket
from typing import Any

from llava_mini.errors import InputError

_SHORTEST_KEY = 16


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_key(host: str, key: str | None) -> None:
    """Look at a key.

    Raises:
        InputError: when other machines reach the server without one, or it is too short.
    """
    if key is None and not is_loopback(host):
        raise InputError(f"--host {host} lets other machines in; give a key, in LLAVA_MINI_KEY or with --key-file")
    if key is not None and (len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key):
        raise InputError(f"the key must be {_SHORTEST_KEY} or more printable ASCII characters without spaces")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        InputError: when that address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise InputError(f"cannot listen at {host}, port {port}: {reason}; choose another --port") from error


def run(app: Any, listening: socket.socket, *, grace_s: float) -> None:
    """Serve until the process is asked to stop; running answers may end within `grace_s`."""
    make_server(app, grace_s=grace_s).run(sockets=[listening])


def make_server(app: Any, *, grace_s: float) -> Any:
    """Return uvicorn's server, which logs paths and never contents."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=1024,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=max(1, round(grace_s)),
            ws="none",
            lifespan="on",
        )
    )
