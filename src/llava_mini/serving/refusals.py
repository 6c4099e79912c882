"""What is refused, in OpenAI's envelope: one line, a status, a code where it has one."""

import logging
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from llava_mini.errors import EngineError, LlavaMiniError, ModelError
from llava_mini.serving.requests import BusyError, GoneError, StoppingError, TooLongError
from llava_mini.serving.schema import PARTS, TEXT

_log = logging.getLogger("llava_mini.serving")


def error_body(status: int, message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Return OpenAI's envelope of an error."""
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": _line(message, 500), "type": kind, "param": param and _line(param, 100), "code": code}}


def _line(text: str, most: int) -> str:
    """Return what a client may have sent as one short line that can be encoded."""
    return " ".join(text[: 2 * most].encode("utf-8", "replace").decode().split())[:most]


def status_of(error: LlavaMiniError) -> tuple[int, str | None]:
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
    status, code = status_of(error)
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, BusyError) else {}
    headers |= {"Retry-After": "30"} if isinstance(error, StoppingError) else {}
    return JSONResponse(error_body(status, str(error), code), status_code=status, headers=headers)


async def _invalid(_: Request, error: Any) -> Response:
    first = error.errors()[0]
    places = [str(part) for part in first["loc"][1:] if part not in (PARTS, TEXT)]
    param = ".".join(places) or None
    message = str(first["msg"]).removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if first["type"] == "json_invalid":
        param, message = None, f"the body is not valid JSON ({first.get('ctx', {}).get('error', 'unreadable')})"
    text = f"{param}: {message}" if param else message
    return JSONResponse(error_body(400, text, None, param), status_code=400)


async def _http(_: Request, error: Any) -> Response:
    body = error_body(error.status_code, str(error.detail))
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _surprise(_: Request, error: Any) -> Response:
    _log.error("a request failed: %s", type(error).__name__)
    return JSONResponse(error_body(500, f"the server failed ({type(error).__name__})"), status_code=500)


HANDLERS: dict[Any, Any] = {
    LlavaMiniError: _own_error,
    RequestValidationError: _invalid,
    HTTPException: _http,
    Exception: _surprise,
}
