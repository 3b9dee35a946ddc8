"""Errors in the form that OpenAI's clients understand."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse


class ApiError(Exception):
    """A request that cannot be answered. The message is for the person who sent it."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    @property
    def body(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


async def answer_error(_request: Request, error: Exception) -> JSONResponse:
    """The response to a request that raised an `ApiError`."""
    assert isinstance(error, ApiError)
    retry = {"retry-after": "1"} if error.status in (429, 503) else None
    return JSONResponse(error.body, error.status, retry)
