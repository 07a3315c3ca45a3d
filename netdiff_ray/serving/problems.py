"""Errors as problem details (RFC 9457), whatever raised them."""

import json
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

PROBLEM_TYPE = "application/problem+json"
PROBLEM_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {"type": "array", "items": {"type": "object"}},
    },
}
"""JSON Schema of a problem."""


class Problem(Exception):
    """An answer other than the requested one.

    Args:
        status: HTTP status.
        detail: what was wrong and what would be right, in a sentence.
        headers: of the answer.
        errors: `where` in the body and `what` is wrong there.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        headers: Mapping[str, str] | None = None,
        errors: list[dict] | None = None,
    ):
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.errors = errors or []

    def answer(self) -> Response:
        """Return the HTTP response."""
        body = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            body["errors"] = self.errors
        return Response(json.dumps(body), self.status, self.headers, PROBLEM_TYPE)


def unavailable(detail: str, retry_after_s: int = 5) -> Problem:
    """Return a 503 Problem, whose request may work later."""
    return Problem(503, detail, {"Retry-After": str(retry_after_s)})


def invalid(errors: list[dict], what: str) -> Problem:
    """Return a 422 Problem of the errors that pydantic lists."""
    listed = [
        {"where": "/" + "/".join(str(part) for part in error["loc"]), "what": error["msg"]}
        for error in errors[:20]
    ]
    first = listed[0]
    return Problem(422, f"{what}: {first['where']}: {first['what']}", errors=listed)


def answer_with_problems(app: FastAPI) -> None:
    """Register handlers that answer every error of an app as a problem."""

    @app.exception_handler(Problem)
    async def problem(_request: Request, error: Problem) -> Response:
        return error.answer()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        detail = {
            404: f"there is nothing at {request.url.path}",
            405: f"{request.method} is not for {request.url.path}",
        }.get(error.status_code, str(error.detail))
        return Problem(error.status_code, detail, error.headers).answer()

    @app.exception_handler(RequestValidationError)
    async def validation(_request: Request, error: RequestValidationError) -> Response:
        return invalid(error.errors(), "the request is not as described").answer()

    @app.exception_handler(Exception)
    async def unexpected(_request: Request, error: Exception) -> Response:
        detail = f"the endpoint failed: {type(error).__name__}; its log says more"
        return Problem(500, detail).answer()
