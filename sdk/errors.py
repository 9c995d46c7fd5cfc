"""What can go wrong between a client and Holdfast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class HoldfastSdkError(Exception):
    """Base of everything this package raises on purpose."""


class NoAnswer(HoldfastSdkError):
    """Holdfast could not be reached, or its answer was lost.

    Attributes:
        code: Stable dotted code.
        sent: Whether the request may have arrived.
    """

    code: ClassVar[str] = "client.no_answer"

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class AnswerUnreadable(HoldfastSdkError):
    """Something answered, but not as Holdfast does: perhaps the address is another program's, or a proxy stands between."""

    code: ClassVar[str] = "client.answer_unreadable"


class HoldfastApiError(HoldfastSdkError):
    """Holdfast refused, and says why.

    Attributes:
        code: Stable dotted code, such as `budget.insufficient`.
        status: HTTP status.
        detail: A sentence that says what was wrong and what to do.
        remedy: What to do about it.
        help_path: Where the server explains the code: a path on the same server, such as `/problems/budget.insufficient`.
        request_id: Names this request in the server's log.
        fields: For `request.invalid`, what is wrong with which field.
        problems: For `policy.refused` and `policy.cases_failed`, all that is wrong with the policy.
        retry_after_s: When the same request may fare better, if the server named a time.
    """

    def __init__(
        self,
        code: str,
        status: int,
        detail: str,
        request_id: str,
        *,
        remedy: str = "",
        help_path: str = "",
        fields: Mapping[str, str] | None = None,
        problems: Sequence[Mapping[str, Any]] = (),  # Any: JSON
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.status = status
        self.detail = detail
        self.request_id = request_id
        self.remedy = remedy
        self.help_path = help_path
        self.fields = dict(fields or {})
        self.problems = [dict(each) for each in problems]
        self.retry_after_s = retry_after_s

    @classmethod
    def from_problem(cls, status: int, problem: Mapping[str, Any], retry_after_s: float | None) -> HoldfastApiError:
        """Reads problem details (RFC 9457). Any: JSON from outside, read member by member."""
        errors = problem.get("errors")
        fields = {
            str(one.get("field", "")): str(one.get("message", ""))
            for one in (errors if isinstance(errors, list) else [])
            if isinstance(one, dict)
        }
        return cls(
            str(problem["code"]),
            status,
            str(problem.get("detail", "")),
            str(problem.get("request_id", "")),
            remedy=str(problem.get("remedy", "")),
            help_path=str(problem.get("type", "")),
            fields=fields,
            problems=[each for each in problem.get("problems") or () if isinstance(each, Mapping)],
            retry_after_s=retry_after_s,
        )
