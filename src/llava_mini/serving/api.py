"""The HTTP side: OpenAI's chat API over the scheduler.

Requests become conversations (`schema`), conversations become events (`scheduler`), events become JSON or server-sent
events (`answering`), errors become OpenAI's envelope (`refusals`). Bodies, keys and hosts are looked at before
(`guard`).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from llava_mini.assistant import Assistant
from llava_mini.inputs.chat import Messages
from llava_mini.serving.answering import Reply
from llava_mini.serving.choice import Settings
from llava_mini.serving.explanations import Cost, Explained, explain, moments
from llava_mini.serving.guard import LOOPBACK, Guard
from llava_mini.serving.metrics import Metrics
from llava_mini.serving.refusals import HANDLERS
from llava_mini.serving.relay import Relay
from llava_mini.serving.remote import Remote
from llava_mini.serving.requests import Event, ServerLimits, StoppingError, Ticket
from llava_mini.serving.scheduler import Scheduler
from llava_mini.serving.schema import ChatRequest, Conversation, Fetch, Message, conversation

_T = TypeVar("_T")


class ErrorDetail(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """OpenAI's envelope of an error."""

    error: ErrorDetail


class ExplanationRequest(Conversation):
    """A conversation, and what was answered."""

    answer: str = Field("", max_length=20_000)


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 500, 502, 503)
}


def build_app(
    assistant: Assistant,
    *,
    limits: ServerLimits | None = None,
    key: str | None = None,
    hosts: frozenset[str] | None = LOOPBACK,
    fetch: Fetch | None = None,
    cost: Cost | None = None,
    grace_s: float = 30.0,
) -> Guard:
    """Return the ASGI application of one model; its `close` stops it.

    Args:
        key: what clients must send as a bearer token; None: nothing.
        hosts: names by which the server may be called; None: any.
        fetch: how files at web addresses are fetched; by default none are.
        cost: what an answer costs, for `/v1/explanations`.
        grace_s: how long answers may go on once the server is stopped.
    """
    limits = limits or ServerLimits()
    scheduler = Scheduler(assistant, limits) if assistant.served is None else Relay(assistant, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(scheduler.close, grace_s)

    app = FastAPI(title="llava-mini", version="1", docs_url=None, redoc_url=None, lifespan=lifespan, responses=_ERRORS)
    server = _Server(scheduler, limits, fetch or Remote().fetch, cost)
    app.state.server = server
    app.post("/v1/chat/completions", response_model=None)(server.chat)
    app.post("/v1/explanations", response_model=None)(server.explanation)
    app.get("/v1/models")(server.models)
    app.get("/v1/models/{name:path}")(server.model)
    app.get("/health", response_model=None)(server.health)
    app.get("/metrics", response_model=None)(server.numbers)
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    guarded = _Counted(app, server.metrics)
    return Guard(guarded, close=scheduler.close, key=key, hosts=hosts, max_body=limits.body_bytes)


class _Server:
    """The endpoints."""

    def __init__(self, scheduler: Scheduler, limits: ServerLimits, fetch: Fetch, cost: Cost | None) -> None:
        self.scheduler, self.limits, self.metrics = scheduler, limits, Metrics(scheduler)
        self._fetch, self._cost = fetch, cost
        self._name = scheduler.assistant.name.rstrip("/").rpartition("/")[2] or "llava-mini"
        self._began = int(time.time())

    async def chat(self, body: ChatRequest, http: Request) -> Response:
        """Answer a conversation, as a whole or piece by piece."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event] = asyncio.Queue()
        ticket = self.scheduler.reserve(body.settings(), lambda event: _call(loop, events.put_nowait, event))
        reply = Reply(self._name, self.metrics, ticket, events, http)
        try:
            await self._submit(ticket, body.messages)
            started = await reply.start()
            if not body.stream:
                answer = JSONResponse(await reply.whole(started))
                reply.close()
                return answer
        except BaseException:
            reply.close()
            raise
        usage = body.stream_options is not None and body.stream_options.include_usage
        return StreamingResponse(
            reply.pieces(started, usage=usage),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    async def explanation(self, body: ExplanationRequest) -> Response:
        """Tell where the model looked, and what its one token a picture saved."""
        ticket = self.scheduler.reserve(Settings())
        try:
            return JSONResponse(await self._explained(body, ticket))
        finally:
            self.scheduler.release(ticket)

    async def _explained(self, body: ExplanationRequest, ticket: Ticket) -> dict[str, Any]:
        assistant, answered = self.scheduler.assistant, bool(body.answer.strip())

        def looked(given: Messages) -> Explained:
            messages = self.scheduler.preparer.open_media(given, ticket.check)
            return explain(assistant, messages, self._cost, answered=answered, check=ticket.check)

        given = await self._read(body.messages, ticket)
        found: Explained = await self._unless_stopped(asyncio.wrap_future(self.scheduler.prepare(looked, given)))
        if answered:
            future = self.scheduler.run(lambda: moments(assistant, found, body.answer))
            shares = await self._unless_stopped(asyncio.wrap_future(future))
            for frame, share in zip(found.told["frames"], shares, strict=True):
                frame["attention"] = share
        return found.told

    async def _submit(self, ticket: Ticket, messages: list[Message]) -> None:
        """Hand a conversation to the scheduler, whose place it has; of one that cannot be read it is given back."""
        try:
            given = await self._read(messages, ticket)
        except BaseException:
            self.scheduler.release(ticket)
            raise
        messages.clear()
        self.scheduler.answer(ticket, given)

    async def _read(self, messages: list[Message], ticket: Ticket) -> Messages:
        """Return a conversation with the bytes of its media."""
        reading = run_in_threadpool(conversation, messages, self._fetch, self.limits, ticket.check)
        return await self._unless_stopped(reading)

    async def _unless_stopped(self, work: Awaitable[_T]) -> _T:
        """Wait for work; a server that stops drops what has not begun."""
        try:
            return await work
        except asyncio.CancelledError:
            if not self.scheduler.stopping:
                raise
            raise StoppingError from None

    async def models(self) -> dict[str, Any]:
        """List the one model."""
        return {"object": "list", "data": [self._model()]}

    async def model(self, name: str) -> dict[str, Any]:
        """Tell about the one model."""
        if name != self._name:
            raise HTTPException(404, f"there is no model of that name; there is {self._name}")
        return self._model()

    async def health(self) -> Response:
        """Tell whether requests are taken."""
        stopping = self.scheduler.stopping
        return JSONResponse({"status": "stopping" if stopping else "ok"}, status_code=503 if stopping else 200)

    async def numbers(self) -> Response:
        """Give the numbers for Prometheus."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    def _model(self) -> dict[str, Any]:
        config = self.scheduler.assistant.model.config
        return {
            "id": self._name,
            "object": "model",
            "created": self._began,
            "owned_by": "llava-mini",
            "max_model_len": config.text.max_position_embeddings,
            "vision_tokens_per_frame": config.tokens_per_frame,
        }

    @property
    def name(self) -> str:
        """The model's name."""
        return self._name


class _Counted:
    """Counts answered requests by status, and ends what has failed."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start" and scope.get("path", "").startswith("/v1/"):
                self._metrics.requests.labels(str(message["status"])).inc()
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception:  # it has been answered and told to the log in one line; its traceback may hold contents
            return


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[Event], None], event: Event) -> None:
    loop.call_soon_threadsafe(function, event)
