"""The HTTP side: OpenAI's chat API over the scheduler.

Requests become conversations (`schema`), conversations become events (`scheduler`), events become JSON or server-sent
events here. Bodies, keys and hosts are looked at before (`guard`).
"""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from llava_mini.assistant import Assistant
from llava_mini.errors import EngineError, LlavaMiniError, ModelError
from llava_mini.serving.choice import TokenLogprob
from llava_mini.serving.explanations import Cost, explain, moments
from llava_mini.serving.guard import Guard, error_body
from llava_mini.serving.metrics import Metrics
from llava_mini.serving.relay import Relay
from llava_mini.serving.remote import Remote
from llava_mini.serving.requests import (
    BusyError,
    Event,
    GoneError,
    Said,
    ServerLimits,
    Started,
    StoppingError,
    Ticket,
    TooLongError,
)
from llava_mini.serving.scheduler import Scheduler
from llava_mini.serving.schema import ChatRequest, Fetch, Message, conversation

_log = logging.getLogger("llava_mini.serving")


class ErrorDetail(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """OpenAI's envelope of an error."""

    error: ErrorDetail


class ExplanationRequest(BaseModel):
    """A conversation, and what was answered."""

    messages: list[Message] = Field(min_length=1, max_length=1024)
    answer: str = Field("", max_length=20_000)


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 500, 502, 503)
}


def build_app(
    assistant: Assistant,
    *,
    limits: ServerLimits | None = None,
    key: str | None = None,
    hosts: frozenset[str] | None = frozenset({"127.0.0.1", "localhost", "[::1]"}),
    fetch: Fetch | None = None,
    cost: Cost | None = None,
    grace_s: float = 30.0,
) -> Any:
    """Return the ASGI application of one model.

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
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    return Guard(_Counted(app, server.metrics), key=key, hosts=hosts, max_body=limits.body_bytes)


class _Server:
    """The endpoints."""

    def __init__(self, scheduler: Scheduler, limits: ServerLimits, fetch: Fetch, cost: Cost | None) -> None:
        self.scheduler, self.limits, self.metrics = scheduler, limits, Metrics(scheduler)
        self._fetch, self._cost = fetch, cost
        self._name = scheduler.assistant.name.rstrip("/").rpartition("/")[2] or "llava-mini"
        self._began = int(time.time())

    async def chat(self, body: ChatRequest, http: Request) -> Response:
        """Answer a conversation, as a whole or piece by piece."""
        began, settings = time.monotonic(), body.settings()
        messages = await run_in_threadpool(conversation, body.messages, self._fetch, self.limits.file.max_bytes)
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event] = asyncio.Queue()
        ticket = self.scheduler.submit(messages, settings, lambda e: _call(loop, events.put_nowait, e))
        del messages, body.messages
        reply = _Reply(self, ticket, events, http, began)
        try:
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
        given = await run_in_threadpool(conversation, body.messages, self._fetch, self.limits.file.max_bytes)
        assistant = self.scheduler.assistant
        messages = await run_in_threadpool(self.scheduler.preparer.open_media, given)
        found = await run_in_threadpool(explain, assistant, messages, self._cost)
        if body.answer.strip():
            future = self.scheduler.run(lambda: moments(assistant, messages, found.media, body.answer))
            for frame, share in zip(found.told["frames"], await asyncio.wrap_future(future), strict=True):
                frame["attention"] = share
        return JSONResponse(found.told)

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


class _Reply:
    """One request's events, as OpenAI's JSON."""

    def __init__(
        self, server: _Server, ticket: Ticket, events: "asyncio.Queue[Event]", http: Request, began: float
    ) -> None:
        self._server, self._ticket, self._events, self._http, self._began = server, ticket, events, http, began
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
            status, code = _status(error)
            yield f"data: {json.dumps(error_body(status, str(error), code))}\n\n"
        finally:
            self.close()

    async def _said(self, started: Started) -> AsyncIterator[Said]:
        """Give what is said until all choices have ended, and count it."""
        metrics, left, first = self._server.metrics, len(self._spent), True
        metrics.tokens.labels("prompt").inc(started.prompt_tokens)
        metrics.tokens.labels("vision").inc(started.vision_tokens)
        metrics.frames.inc(started.frames)
        while left:
            event = await self._next()
            assert isinstance(event, Said)
            if first:
                metrics.first_token.observe(time.monotonic() - self._began)
                first = False
            self._spent[event.choice] = event.tokens
            left -= event.piece.ending is not None
            yield event
        metrics.tokens.labels("answer").inc(sum(self._spent))
        metrics.whole.observe(time.monotonic() - self._began)
        _log.info(
            "%d prompt tokens, %d of them vision, %d answer tokens, %.3f s",
            started.prompt_tokens,
            started.vision_tokens,
            sum(self._spent),
            time.monotonic() - self._began,
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
        return {"id": self._id, "object": kind, "created": self._created, "model": self._server.name}

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

        def one(token: str, logprob: float) -> dict[str, Any]:
            return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", "replace"))}

        content = [{**one(t.token, t.logprob), "top_logprobs": [one(*top) for top in t.top]} for t in told]
        return {"content": content, "refusal": None}


class _Counted:
    """Counts answered requests by status."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start" and scope.get("path", "").startswith("/v1/"):
                self._metrics.requests.labels(str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, counted)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[Event], None], event: Event) -> None:
    loop.call_soon_threadsafe(function, event)


def _status(error: LlavaMiniError) -> tuple[int, str | None]:
    """Return the status of an error, and OpenAI's code where it has one."""
    if isinstance(error, BusyError):
        return 429, "rate_limit_exceeded"
    if isinstance(error, StoppingError):
        return 503, None
    if isinstance(error, GoneError):
        return 499, None
    if isinstance(error, ModelError):
        return 500, None
    if isinstance(error, EngineError):
        return 502, None
    return 400, "context_length_exceeded" if isinstance(error, TooLongError) else None


async def _own_error(_: Request, error: Any) -> Response:
    status, code = _status(error)
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, BusyError) else {}
    headers |= {"Retry-After": "30"} if isinstance(error, StoppingError) else {}
    return JSONResponse(error_body(status, str(error), code), status_code=status, headers=headers)


async def _invalid(_: Request, error: Any) -> Response:
    first = error.errors()[0]
    places = [str(part) for part in first["loc"][1:]]
    param = ".".join(places) or None
    message = str(first["msg"]).removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if first["type"] == "json_invalid":
        param, message = None, f"the body is not valid JSON ({first.get('ctx', {}).get('error', 'unreadable')})"
    text = f"{param}: {message}" if param else message
    return JSONResponse(error_body(400, text[:500], None, param), status_code=400)


async def _http(_: Request, error: Any) -> Response:
    body = error_body(error.status_code, str(error.detail)[:500])
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _surprise(_: Request, error: Any) -> Response:
    _log.error("a request failed: %s", type(error).__name__)
    return JSONResponse(error_body(500, f"the server failed ({type(error).__name__})"), status_code=500)


_HANDLERS: dict[Any, Any] = {
    LlavaMiniError: _own_error,
    RequestValidationError: _invalid,
    HTTPException: _http,
    Exception: _surprise,
}
