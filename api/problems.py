"""Problem details (RFC 9457) for every error: a stable code, a sentence that says what to do, the request's id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import asyncpg
import orjson
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, JsonValue
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from temporalio.service import RPCError

from holdfast.codes.catalogue import CATALOGUE
from holdfast.errors import HoldfastError, RequestInvalid, Unavailable

MEDIA_TYPE: Final = "application/problem+json"
_PROBLEMS_SHOWN_MAX: Final = 10
_RETRY_AFTER_S: Final = "2"

# Classes of PostgreSQL's errors that pass by themselves: connection, operator's intervention, resources, rollback.
_PASSING_STATES: Final = ("08", "57", "53", "40")


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    field: str
    message: str


class Problem(BaseModel):
    """An error."""

    type: str = Field(
        description="where the code is explained, as a URI reference", examples=["/problems/budget.insufficient"]
    )
    title: str = Field(description="the HTTP status in words")
    status: int
    code: str = Field(description="stable dotted code", examples=["budget.insufficient"])
    detail: str = Field(description="what was wrong and what to do")
    remedy: str = Field(description="what to do about it")
    request_id: str
    errors: list[FieldProblem] = Field(default=[], description="for `request.invalid`: each field that is wrong")
    problems: list[dict[str, JsonValue]] = Field(
        default=[],
        description="for `policy.refused`: what is wrong with the text, each with line, column and what was expected; "
        "for `policy.cases_failed`: the cases that failed",
    )


_TITLES: Final = {
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    424: "Failed Dependency",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

# FastAPI's type for this parameter; the schema of a problem is the same for all.
RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    status: {
        "description": _TITLES[status],
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for status in (401, 402, 403, 404, 409, 413, 422, 503)
}


def problem_response(
    request_id: str,
    status: int,
    code: str,
    detail: str,
    *,
    remedy: str = "",
    errors: Sequence[FieldProblem] = (),
    problems: Sequence[Mapping[str, JsonValue]] = (),
    headers: dict[str, str] | None = None,
) -> Response:
    """Builds the response of an error; `remedy` is that of the code, unless this case has one of its own."""
    problem = Problem(
        type=f"/problems/{code}",
        title=_TITLES.get(status, "Error"),
        status=status,
        code=code,
        detail=detail,
        remedy=remedy or _remedy_of(code),
        request_id=request_id,
        errors=list(errors),
        problems=[dict(each) for each in problems],
    )
    empty = {name for name, some in (("errors", errors), ("problems", problems)) if not some}
    body = orjson.dumps(problem.model_dump(exclude=empty))
    more = {"retry-after": _RETRY_AFTER_S} if status == Unavailable.status else {}
    return Response(body, status, headers={**more, **(headers or {})}, media_type=MEDIA_TYPE)


def _remedy_of(code: str) -> str:
    known = CATALOGUE.get(
        code
    )  # all are there, as a test sees to; an error's answer must not fail should one be missing
    return known.remedy if known is not None else ""


def request_id_of(request: Request) -> str:
    """Returns the id that the middleware gave to the request."""
    return str(request.scope.get("state", {}).get("request_id", ""))


def sentence(error: HoldfastError) -> str:
    """Returns what is wrong and what to do about it."""
    return f"{error.message}; {error.remedy}" if error.remedy else error.message


def for_holdfast_error(request: Request, error: Exception) -> Response:
    """Answers an error that Holdfast raises on purpose."""
    assert isinstance(error, HoldfastError)  # registered for these only
    headers = {"www-authenticate": "Bearer"} if error.status == 401 else None  # noqa: PLR2004 (HTTP status)
    return problem_response(
        request_id_of(request),
        error.status,
        error.code,
        sentence(error),
        remedy=error.remedy,
        problems=error.problems,
        headers=headers,
    )


def for_http_exception(request: Request, error: Exception) -> Response:
    """Answers what no route or method fits."""
    assert isinstance(error, HTTPException)  # registered for these only
    known = {
        404: ("resource.not_found", "there is nothing at this path"),
        405: ("request.method_not_allowed", "this path does not have this method"),
    }
    code, detail = known.get(error.status_code, ("request.invalid", str(error.detail)))
    return problem_response(request_id_of(request), error.status_code, code, detail, headers=dict(error.headers or {}))


def for_validation_error(request: Request, error: Exception) -> Response:
    """Answers a request whose fields are not as documented, naming each."""
    assert isinstance(error, RequestValidationError)  # registered for these only
    errors = [
        FieldProblem(
            field=".".join(str(part)[:80] for part in problem["loc"][1:]) or str(problem["loc"][0]),
            message=str(problem["msg"]).removeprefix("Value error, ")[:500],
        )
        for problem in error.errors()[:_PROBLEMS_SHOWN_MAX]
    ]
    detail = "; ".join(f"`{problem.field}`: {problem.message}" for problem in errors)
    return problem_response(request_id_of(request), RequestInvalid.status, RequestInvalid.code, detail, errors=errors)


def is_passing(error: BaseException) -> bool:
    """Says whether an error means that a part is away for now, so that the same request may succeed later."""
    if isinstance(error, OSError | PoolTimeout | OperationalError | InterfaceError | RPCError):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    # what fails while a connection is made comes as the driver's own error
    cause = error.orig if isinstance(error, DBAPIError) else error
    state = str(getattr(cause, "sqlstate", "") or "")
    return state.startswith(_PASSING_STATES) or isinstance(cause, asyncpg.InterfaceError)


def for_unexpected(request_id: str, error: BaseException) -> Response:
    """Answers what nobody expected, without a word about the inside."""
    if is_passing(error):
        detail = "a part that is needed does not answer; send it again, under the same Idempotency-Key if it had one"
        return problem_response(request_id, Unavailable.status, Unavailable.code, detail)
    detail = "something is wrong on our side; the log has it under this request_id"
    return problem_response(request_id, HoldfastError.status, HoldfastError.code, detail)
