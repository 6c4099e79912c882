"""What a request must be before anybody looks at it: its host, its key, its kind and its size.

Pure ASGI, so that a client that goes away is noticed by whoever answers it.
"""

import asyncio
import hmac
import json
from collections.abc import Callable
from typing import Any

from llava_mini.serving.refusals import error_body

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""Names by which a server that only this machine reaches is called."""
_BODY_SECONDS = 60.0
_MOST_VALUES = 200_000
"""Values of one JSON body, about; more would keep everybody waiting while they are read."""
_OPEN = frozenset({"/health"})
"""Paths that need no key, so that whoever watches over the server needs none."""


class Guard:
    """Stands before an application."""

    def __init__(
        self,
        app: Any,
        *,
        close: Callable[[float], None],
        key: str | None,
        hosts: frozenset[str] | None,
        max_body: int,
        max_held: int | None = None,
    ) -> None:
        """Wrap an application.

        Args:
            close: stops it within some seconds.
            key: what must follow "Bearer"; None: nothing is asked.
            hosts: names by which the server may be called; None: any. A page in a browser that has its own name
                point to this machine sends that name.
            max_body: bytes of one request.
            max_held: bytes of all requests that wait for their answer to begin; by default four of the largest.
        """
        self.close = close
        self._app, self._hosts, self._max_body = app, hosts, max_body
        self._key = None if key is None else key.encode()
        self._max_held = max_held or 4 * max_body
        self._held = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Let a request through, or answer why not."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
        if self._hosts is not None and name not in self._hosts:
            await refuse(send, 403, "this server is not called by that host name; use 127.0.0.1 or localhost")
            return
        if self._key is not None and scope["path"] not in _OPEN and not self._knows(headers):
            await refuse(send, 401, "the key is missing or wrong; send 'Authorization: Bearer KEY'", "invalid_api_key")
            return
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            await refuse(send, 415, "the body must be JSON, and its content-type application/json")
            return
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._max_body:
            await refuse(send, 413, f"the request has more than {self._max_body:,} bytes; send smaller files")
            return
        await self._with_body(scope, receive, send)

    async def _with_body(self, scope: Any, receive: Any, send: Any) -> None:
        """Read the body within its limits, and hand it on."""
        body, held = bytearray(), 0

        def release() -> None:
            nonlocal held
            self._held, held = self._held - held, 0

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                release()  # its files are no longer needed: who reads the answer slowly holds no bytes
            await send(message)

        try:
            try:
                async with asyncio.timeout(_BODY_SECONDS):
                    more = True
                    while more:
                        message = await receive()
                        if message["type"] == "http.disconnect":
                            return
                        chunk = message.get("body", b"")
                        body += chunk
                        self._held, held = self._held + len(chunk), held + len(chunk)
                        more = message.get("more_body", False)
                        if len(body) > self._max_body:
                            await refuse(
                                send, 413, f"the request has more than {self._max_body:,} bytes; send smaller files"
                            )
                            return
                        if self._held > self._max_held:
                            await refuse(send, 429, "the server holds as many bytes as it can; try again in 1 s")
                            return
            except TimeoutError:
                await refuse(send, 408, f"the request was not there after {_BODY_SECONDS:.0f} s")
                return
            if sum(body.count(sign) for sign in b",[{") > _MOST_VALUES:
                await refuse(send, 400, f"the body holds more than {_MOST_VALUES:,} values; send fewer")
                return
            whole: bytes | None = bytes(body)
            body.clear()

            async def again() -> Any:
                nonlocal whole
                if whole is None:
                    return await receive()
                given, whole = whole, None
                return {"type": "http.request", "body": given, "more_body": False}

            await self._app(scope, again, sent)
        finally:
            release()

    def _knows(self, headers: dict[bytes, bytes]) -> bool:
        """Tell whether the key is right, in a time that does not tell how much of it is."""
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        return hmac.compare_digest(given.strip(), self._key or b"") and kind.lower() == b"bearer"


async def refuse(send: Any, status: int, message: str, code: str | None = None) -> None:
    """Answer with an error."""
    body = json.dumps(error_body(status, message, code)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"connection", b"close")] if status in (408, 413, 429, 503) else []
    headers += [(b"retry-after", b"1")] if status in (429, 503) else []
    headers += [(b"www-authenticate", b"Bearer")] if status == 401 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
