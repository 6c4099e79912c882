"""One request's events, as OpenAI's JSON: an answer as a whole, or server-sent events."""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request

from llava_mini.errors import LlavaMiniError
from llava_mini.serving.choice import TokenLogprob
from llava_mini.serving.metrics import Metrics
from llava_mini.serving.refusals import error_body, status_of
from llava_mini.serving.requests import Event, GoneError, Said, Started, Ticket

_log = logging.getLogger("llava_mini.serving")


class Reply:
    """One request's events, as OpenAI's JSON."""

    def __init__(
        self, name: str, metrics: Metrics, ticket: Ticket, events: "asyncio.Queue[Event]", http: Request
    ) -> None:
        self._name, self._metrics, self._ticket, self._events, self._http = name, metrics, ticket, events, http
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._spent = [0] * ticket.settings.choices
        self._watching = asyncio.create_task(self._watch())

    def close(self) -> None:
        """Stop working for it, and watching whether it is still waited for."""
        self._ticket.cancel()
        self._watching.cancel()

    async def start(self) -> Started:
        """Wait until the question has been read."""
        event = await self._next()
        assert isinstance(event, Started)
        return event

    async def whole(self, started: Started) -> dict[str, Any]:
        """Wait for all answers."""
        count = len(self._spent)
        texts, endings = [""] * count, [""] * count
        told: list[list[TokenLogprob]] = [[] for _ in range(count)]
        async for said in self._said(started):
            texts[said.choice] += said.piece.text
            told[said.choice] += said.piece.logprobs
            endings[said.choice] = said.piece.ending or ""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": texts[index], "refusal": None},
                "logprobs": self._logprobs(told[index]),
                "finish_reason": endings[index],
            }
            for index in range(count)
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": self._usage(started)}

    async def pieces(self, started: Started, *, usage: bool) -> AsyncIterator[str]:
        """Give server-sent events."""
        extra: dict[str, Any] = {"usage": None} if usage else {}

        def event(choices: list[dict[str, Any]], **more: Any) -> str:
            return (
                f"data: {json.dumps({**self._head('chat.completion.chunk'), 'choices': choices, **extra, **more})}\n\n"
            )

        def choice(index: int, delta: dict[str, Any], ending: str | None = None, logprobs: Any = None) -> Any:
            return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": ending}

        try:
            for index in range(len(self._spent)):
                yield event([choice(index, {"role": "assistant", "content": ""})])
            async for said in self._said(started):
                logprobs = self._logprobs(list(said.piece.logprobs)) if said.piece.logprobs else None
                if said.piece.text or logprobs:
                    yield event([choice(said.choice, {"content": said.piece.text}, None, logprobs)])
                if said.piece.ending:
                    yield event([choice(said.choice, {}, said.piece.ending)])
            if usage:
                yield event([], usage=self._usage(started))
            yield "data: [DONE]\n\n"
        except LlavaMiniError as error:  # the status has been sent: the envelope comes as the last event
            status, code = status_of(error)
            yield f"data: {json.dumps(error_body(status, str(error), code))}\n\n"
        finally:
            self.close()

    async def _said(self, started: Started) -> AsyncIterator[Said]:
        """Give what is said until all choices have ended, and count it."""
        metrics, left, first = self._metrics, len(self._spent), True
        metrics.tokens.labels("prompt").inc(started.prompt_tokens)
        metrics.tokens.labels("vision").inc(started.vision_tokens)
        metrics.frames.inc(started.frames)
        while left:
            event = await self._next()
            assert isinstance(event, Said)
            if first:
                metrics.first_token.observe(time.monotonic() - self._ticket.began)
                first = False
            self._spent[event.choice] = event.tokens
            left -= event.piece.ending is not None
            yield event
        metrics.tokens.labels("answer").inc(sum(self._spent))
        metrics.whole.observe(time.monotonic() - self._ticket.began)
        _log.info(
            "%d prompt tokens, %d of them vision, %d answer tokens, %.3f s",
            started.prompt_tokens,
            started.vision_tokens,
            sum(self._spent),
            time.monotonic() - self._ticket.began,
        )

    async def _next(self) -> Started | Said:
        """Wait for what happens next."""
        event = await self._events.get()
        if isinstance(event, LlavaMiniError):
            raise event
        return event

    async def _watch(self) -> None:
        """Stop working for a client that hangs up."""
        while (await self._http.receive())["type"] != "http.disconnect":
            pass
        self._ticket.cancel()
        self._events.put_nowait(GoneError("whoever asked has gone"))

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._name}

    def _usage(self, started: Started) -> dict[str, Any]:
        answer = sum(self._spent)
        return {
            "prompt_tokens": started.prompt_tokens,
            "completion_tokens": answer,
            "total_tokens": started.prompt_tokens + answer,
            "vision_tokens": started.vision_tokens,
            "frames": started.frames,
        }

    def _logprobs(self, told: list[TokenLogprob]) -> dict[str, Any] | None:
        if self._ticket.settings.top_logprobs is None:
            return None

        def one(told: TokenLogprob) -> dict[str, Any]:
            return {"token": told.token, "logprob": told.logprob, "bytes": list(told.data)}

        content = [{**one(t), "top_logprobs": [one(top) for top in t.top]} for t in told]
        return {"content": content, "refusal": None}
