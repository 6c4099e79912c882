"""Bytes of requests are held until their answers begin, and no longer."""

import asyncio
from typing import Any

from llava_mini.serving.guard import Guard


def test_a_slow_reader_holds_no_bytes() -> None:
    async def ask() -> list[int]:
        statuses: list[int] = []
        unread = asyncio.Event()

        async def app(_: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await unread.wait()

        guard = Guard(app, close=lambda _: None, key=None, hosts=None, max_body=10, max_held=10)
        scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", b"application/json")]}
        began = asyncio.Semaphore(0)

        async def receive() -> Any:
            return {"type": "http.request", "body": b"123456789"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
                began.release()

        asked = []
        for _ in range(3):
            asked.append(asyncio.create_task(guard(scope, receive, send)))
            await asyncio.wait_for(began.acquire(), 60)
        unread.set()
        await asyncio.gather(*asked)
        return statuses

    assert asyncio.run(ask()) == [200, 200, 200]
