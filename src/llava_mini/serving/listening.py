"""Sockets, keys, and the process that serves: closed to other machines unless a key is asked."""

import asyncio
import ipaddress
import logging
import socket

import uvicorn

from llava_mini.errors import InputError
from llava_mini.serving.connections import Connection
from llava_mini.serving.guard import LOOPBACK, Guard

_log = logging.getLogger("llava_mini.serving")
_SHORTEST_KEY = 16
_SENDING_SECONDS = 5
"""For the last words of answers, once all have ended or been told."""


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


def names_of(host: str, key: str | None) -> frozenset[str] | None:
    """Return the names by which a server that listens at a host may be called; None: any.

    A page in a browser may have its own name point to this machine, but does not know the key: where one is asked, the
    name proves nothing more, and a proxy in front may keep the name by which it was called.
    """
    return None if key is not None else LOOPBACK | {f"[{host}]" if ":" in host else host.lower()}


def run(app: Guard, listening: socket.socket, *, grace_s: float) -> None:
    """Serve until the process is asked to stop; running answers may end within `grace_s`."""
    make_server(app, grace_s=grace_s).run(sockets=[listening])


def make_server(app: Guard, *, grace_s: float) -> uvicorn.Server:
    """Return uvicorn's server, which logs paths and never contents."""
    config = uvicorn.Config(
        app,
        http=Connection,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=_SENDING_SECONDS,
        ws="none",
        lifespan="on",
    )
    return _Server(config, app, grace_s)


class _Server(uvicorn.Server):
    """Stops the application first, while it still answers: what comes is refused in words, what runs is told."""

    def __init__(self, config: uvicorn.Config, app: Guard, grace_s: float) -> None:
        super().__init__(config)
        self._app, self._grace_s = app, grace_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let answers end within the grace, or until a second Ctrl-C; then close the connections."""
        _log.info("stopping: answers may end within %g s, a second Ctrl-C ends them", self._grace_s)
        closing = asyncio.ensure_future(asyncio.to_thread(self._app.close, self._grace_s))
        while not closing.done() and not self.force_exit:
            await asyncio.wait({closing}, timeout=0.1)
        await asyncio.to_thread(self._app.close, 0.0)
        await super().shutdown(sockets)
