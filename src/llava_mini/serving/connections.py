"""Connections that nobody uses are closed: those that send no whole head, read no answer, or are too many.

What a proxy does in front of a public server; here it keeps a few clients from taking all connections of the others.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from llava_mini.serving.guard import refuse

HEAD_SECONDS = 10.0
"""From the first byte of a request, or from the connection, to the end of its head."""
UNREAD_SECONDS = 60.0
"""How long a client may read nothing of what it is sent."""
MOST = 512
"""Connections that are answered; half as many more are told 503, further ones closed."""


class Connection(H11Protocol):
    """One client, with a time for its head and for its reading."""

    _head: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a head."""
        super().connection_made(transport)
        if len(self.connections) > MOST + MOST // 2:
            transport.abort()
            return
        if len(self.connections) > MOST:
            self.app = _full
        transport.set_write_buffer_limits(high=0)  # whatever is not read is noticed
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """Take what was sent."""
        super().data_received(data)
        self._watch_head()

    def pause_writing(self) -> None:
        """Begin to wait for a reader."""
        super().pause_writing()
        _cancel(self._unread)
        self._watch_reader()

    def resume_writing(self) -> None:
        """Stop waiting for a reader."""
        super().resume_writing()
        _cancel(self._unread)
        self._unread = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the times."""
        _cancel(self._head)
        _cancel(self._unread)
        super().connection_lost(exc)

    def _watch_reader(self, bytes_before: int | None = None) -> None:
        """Look after a while whether some of what waits has been read."""
        waiting = self.transport.get_write_buffer_size()
        if bytes_before is not None and waiting >= bytes_before:
            self.transport.abort()
        else:
            self._unread = self.loop.call_later(UNREAD_SECONDS, self._watch_reader, waiting)

    def _watch_head(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            _cancel(self._head)
            self._head = None
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


async def _full(scope: Any, receive: Any, send: Any) -> None:
    """Answer where there are too many connections."""
    await refuse(send, 503, "the server has as many connections as it takes; try again in 1 s")
