"""The page behind a one-time link: it shows what waits, and decides by POST alone, for programs that read mail open links."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, cast
from urllib.parse import parse_qsl

from fastapi import APIRouter, Path, Request
from starlette.responses import HTMLResponse

from api.approval_html import COMMENT_LENGTH_MAX, HEADERS, asked, told
from api.approvals import tell
from api.context import Context, Parts
from holdfast.approvals import links, reading
from holdfast.approvals.errors import ApprovalExpired, ApproverRefused, LinkInvalid
from holdfast.approvals.links import Link
from holdfast.approvals.reading import ApprovalView
from holdfast.approvals.voting import Decided, Verdict
from holdfast.database.engine import transaction
from holdfast.errors import Conflict, RequestInvalid

router = APIRouter(include_in_schema=False)

Secret = Annotated[str, Path(min_length=1, max_length=100)]

_FIELDS: Final = frozenset({"verdict", "binding", "comment"})
_GONE: Final = 410
_NEW_ONE: Final = "If you still have to decide, ask whoever sent it for a new link, or decide with a key."
_CLOSED: Final = {
    "withdrawn": ("This request was withdrawn", "Whoever started the run took it back. Nothing is left to decide."),
    "expired": (
        "This request has expired",
        "Nobody decided in time, or the run has ended. What it asked for is not done.",
    ),
    "approved": ("This request is approved already", "Nothing is left to decide."),
    "denied": ("This request is denied already", "Nothing is left to decide."),
}
_STANDING: Final = {
    "used": (_GONE, "This link has been used", "A link decides once. What was decided with it stands."),
    "expired": (_GONE, "This link has expired", "It can decide nothing any more."),
    "unknown": (404, "This link is not good", "It is not one of ours, or not whole: copy all of it from the message."),
    "no_key": (403, "You may not decide any more", "The approver whom this link was made for has no key in force."),
}


@dataclass(frozen=True, slots=True)
class _Answer:
    verdict: Verdict
    binding: bytes
    comment: str


def _page(text: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(text, status, HEADERS)


@router.get("/approve/{secret}")
async def show_approval(secret: Secret, parts: Parts) -> HTMLResponse:
    """Shows what the link would decide on. INVARIANT: whatever is sent with a GET, nothing is decided and the link stays good."""
    return await _shown(parts, secret)


@router.post("/approve/{secret}")
async def decide_on_approval(secret: Secret, request: Request, parts: Parts) -> HTMLResponse:
    """Votes as the approver whom the link was made for; a vote that does not count leaves the link good."""
    comment = ""
    try:
        answer = _read(await request.body())
        comment = answer.comment
        link = await links.open_link(parts.engine, secret)
        decided = await links.vote_by_link(
            parts.engine, link, answer.verdict, seen=answer.binding, comment=answer.comment
        )
    except (RequestInvalid, Conflict) as error:
        return await _shown(parts, secret, notice=error.message, comment=comment, status=error.status)
    except (LinkInvalid, ApprovalExpired):
        return await _shown(parts, secret)
    except ApproverRefused as error:
        return _page(told("You may not decide this", error.message), error.status)
    await tell(parts, link.tenant_id, link.approval_id, decided)
    return _page(_decided(answer.verdict, decided))


def _read(body: bytes) -> _Answer:
    """Reads the form.

    Raises:
        RequestInvalid: It is not what the page sends.
    """
    problem = RequestInvalid(
        "That was not what this page sends. Look at it again, and decide with one of the two buttons."
    )
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=len(_FIELDS),
        )
        fields = dict(pairs)
        binding = bytes.fromhex(fields["binding"])
    except (ValueError, KeyError):
        raise problem from None
    comment = fields.get("comment", "").replace("\r\n", "\n")
    if len(fields) != len(pairs) or not fields.keys() <= _FIELDS or fields.get("verdict") not in ("approved", "denied"):
        raise problem
    if fields["verdict"] == "denied" and not comment.strip():
        raise RequestInvalid("Say why you deny it: the agent and the person who started the run are told.")
    if "\x00" in comment or len(comment) > COMMENT_LENGTH_MAX:
        raise problem
    return _Answer(cast("Verdict", fields["verdict"]), binding, comment)


async def _shown(
    parts: Context, secret: str, *, notice: str = "", comment: str = "", status: int = 200
) -> HTMLResponse:
    found = await links.look_at(parts.engine, secret)
    if isinstance(found, Link):
        view = await _view(parts, found)
        if view.state == "pending":
            return _page(asked(view, found, notice=notice, comment=comment), status)
        return _page(told(*_CLOSED[view.state], "This link was not used."), _GONE)
    code, title, sentence = _STANDING[found]
    return _page(told(title, sentence, _NEW_ONE), code)


async def _view(parts: Context, link: Link) -> ApprovalView:
    async with transaction(parts.engine, link.tenant_id) as connection:
        return await reading.read_approval(connection, link.tenant_id, link.approval_id)


def _decided(verdict: Verdict, decided: Decided) -> str:
    if verdict == "denied":
        return told("Denied", "The agent is told, with your reason. You can close this page; the link is used up.")
    if decided.state == "pending":
        return told("Your consent is counted", "Others have to consent as well before it is done. The link is used up.")
    return told(
        "Approved", "The agent goes on with exactly what you saw. You can close this page; the link is used up."
    )
