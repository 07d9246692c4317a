"""Error responses in OpenAI's format: `{"error": {"message", "type", "code"}}`."""

import logging

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request

from freeret.serve.worker import QueueFull, ShuttingDown
from probes.errors import BadItem, BadSetting, FreeRetError, NotStored

log = logging.getLogger(__name__)

CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    415: "unsupported_media_type",
    429: "queue_full",
    500: "internal",
    503: "shutting_down",
}
STATUS: dict[type[FreeRetError], tuple[int, str]] = {
    NotStored: (404, "not_found"),
    BadItem: (400, "bad_item"),
    BadSetting: (400, "bad_setting"),
    QueueFull: (429, "queue_full"),
    ShuttingDown: (503, "shutting_down"),
}
"""Status and code of errors of the caller; any other error is the server's."""


def error_response(status: int, message: str, code: str | None = None) -> JSONResponse:
    """An error response with its body and headers."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "code": code or CODES.get(status)}
    headers = {429: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(status)
    return JSONResponse({"error": error}, status, headers)


def as_response(error: Exception, location: str = "") -> JSONResponse:
    """The response to an error of any type. An unexpected error is logged, and its message is not
    shown.

    Args:
        location: Where the store is; callers are not told.
    """
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return error_response(400, f"the body is not JSON: {first['ctx']['error']}")
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return error_response(400, f"{where}: {first['msg']}" if where else first["msg"])
    if isinstance(error, HTTPException):
        return error_response(error.status_code, str(error.detail))
    if isinstance(error, FreeRetError):
        message = str(error)
        if location:
            message = message.replace(f"store {location}", "the store").replace(
                location, "the store"
            )
        answers = (answer for kind, answer in STATUS.items() if isinstance(error, kind))
        status, code = next(answers, (500, None))
        return error_response(status, message, code)
    log.error("%s while a request was served", type(error).__name__, exc_info=error)
    return error_response(500, "internal error; the log of the server says more")


async def handle(request: Request, error: Exception) -> JSONResponse:
    """An exception handler of the application."""
    return as_response(error, request.app.state.location)
