"""Reading stored mails: every mail is a stranger's work, so nothing in it may break, block or mislead the reader."""

from __future__ import annotations

import html
import os
import re
import stat
from collections.abc import Iterator
from email import policy
from email.message import EmailMessage, Message
from email.parser import BytesParser
from pathlib import Path
from typing import cast

from holdfast.errors import HoldfastError
from holdfast_verdict.canonical import JsonValue

MAIL_BYTES_MAX = 1_048_576
MAILS_LISTED_MAX = 200

_TEXT_LENGTH_MAX = 20_000
_HEADER_LENGTH_MAX = 1_000
_HEADER_SHOWN_MAX = 500
_PARTS_MAX = 50
_BOUNDARY_LINES_MAX = 500
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_TAG = re.compile(r"<(!--|/?[A-Za-z][A-Za-z0-9]{0,15}|[!?])")
_SILENT_ENDS = {"!--": re.compile("-->")} | {
    name: re.compile(f"</{name}[ \t\r\n]?>", re.IGNORECASE)
    for name in ("script", "style", "head", "template", "noscript")
}
_BREAKS = frozenset({"br", "p", "div", "tr", "li", "h1", "h2", "h3", "h4", "blockquote", "table"})
_STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_UNPARSEABLE = (ValueError, LookupError, AttributeError, TypeError, AssertionError, RecursionError)
"""What the standard library's mail parser is known to raise on rubbish."""


class _BoundedPolicy(policy.EmailPolicy):
    """Cuts headers, for the standard library's parser needs minutes for some long ones."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        name, value = super().header_source_parse(sourcelines)
        return name, value[:_HEADER_LENGTH_MAX]


_POLICY = _BoundedPolicy()


class MailUnreadable(HoldfastError):
    """A stored mail is not there, or is nothing that can be shown."""

    code = "mail.unreadable"
    status = 404


def mail_ids(maildir: Path) -> list[str]:
    """Returns the ids of the mails in a folder, in order."""
    stems = (entry.name.removesuffix(".eml") for entry in os.scandir(maildir) if entry.name.endswith(".eml"))
    return sorted(stem for stem in stems if _STEM.fullmatch(stem))[:MAILS_LISTED_MAX]


def read_summary(maildir: Path, mail_id: str) -> dict[str, JsonValue]:
    """Returns id, sender, subject and date of a mail.

    Raises:
        MailUnreadable: There is no such mail, or it cannot be read.
    """
    message = _parse(_read(maildir, mail_id))
    return {
        "mail_id": mail_id,
        "from": _header(message, "from"),
        "subject": _header(message, "subject"),
        "date": _header(message, "date"),
    }


def read_mail(maildir: Path, mail_id: str) -> dict[str, JsonValue]:
    """Returns a mail's headers, text and names of attachments.

    Raises:
        MailUnreadable: There is no such mail, or it cannot be read.
    """
    message = _parse(_read(maildir, mail_id))
    text = _text(message)
    return {
        "mail_id": mail_id,
        "from": _header(message, "from"),
        "to": _header(message, "to"),
        "subject": _header(message, "subject"),
        "date": _header(message, "date"),
        "message_id": _header(message, "message-id"),
        "in_reply_to": _header(message, "in-reply-to"),
        "text": text[:_TEXT_LENGTH_MAX],
        "text_truncated": len(text) > _TEXT_LENGTH_MAX,
        "attachments": [_file_name(part) for part in _parts(message) if _is_attachment(part)],
    }


def _read(maildir: Path, mail_id: str) -> bytes:
    """Reads a regular file of the folder itself: no path, no link, no device, and never without bound."""
    if not _STEM.fullmatch(mail_id):
        raise MailUnreadable(f"{mail_id[:100]!r} is not a mail's id")
    try:
        descriptor = os.open(maildir / f"{mail_id}.eml", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        raise MailUnreadable(f"there is no mail {mail_id}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise MailUnreadable(f"there is no mail {mail_id}")
        if status.st_size > MAIL_BYTES_MAX:
            raise MailUnreadable(f"the mail {mail_id} is larger than {MAIL_BYTES_MAX} bytes")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(MAIL_BYTES_MAX)
    finally:
        os.close(descriptor)


def _parse(raw: bytes) -> EmailMessage:
    if raw.count(b"\n--") > _BOUNDARY_LINES_MAX:
        raise MailUnreadable("the mail has too many parts to be read")
    try:
        return cast("EmailMessage", BytesParser(policy=_POLICY).parsebytes(raw))  # what the policy makes
    except _UNPARSEABLE:
        raise MailUnreadable("the mail is too broken to be read") from None


def _header(message: Message, name: str) -> str:
    raw = next((str(value) for key, value in message.raw_items() if key.lower() == name), "")
    try:
        value = str(message[name] or "")
    except _UNPARSEABLE:
        value = raw
    return _printable(" ".join(value.split()))[:_HEADER_SHOWN_MAX]


def _parts(message: EmailMessage) -> Iterator[EmailMessage]:
    try:
        for count, part in enumerate(message.walk()):
            if count >= _PARTS_MAX:
                return
            if isinstance(part, EmailMessage) and not part.is_multipart():
                yield part
    except _UNPARSEABLE:
        return


def _text(message: EmailMessage) -> str:
    document = ""
    for part in _parts(message):
        if _is_attachment(part):
            continue
        if part.get_content_type() == "text/plain":
            return _printable(_content(part)).strip()
        if part.get_content_type() == "text/html" and not document:
            document = _content(part)
    return _printable(_text_of_html(document)).strip()


def _content(part: EmailMessage) -> str:
    try:
        return str(part.get_content())
    except _UNPARSEABLE:
        payload = part.get_payload(decode=True)
        return payload.decode("utf-8", "replace") if isinstance(payload, bytes) else ""


def _is_attachment(part: EmailMessage) -> bool:
    try:
        return part.is_attachment() or part.get_content_maintype() != "text"
    except _UNPARSEABLE:
        return True


def _file_name(part: EmailMessage) -> str:
    try:
        name = part.get_filename() or part.get_content_type()
    except _UNPARSEABLE:
        name = "unnamed"
    return _printable(name)[:100]


def _printable(text: str) -> str:
    """Drops what no reader sees and some reader might obey: control characters and halves of surrogate pairs."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _UNSEEN.sub("", text)


def _text_of_html(document: str) -> str:
    """Takes the text out of an HTML document, in one pass.

    The standard library's parser takes minutes on a few thousand unclosed tags, which anybody may send. Styles are not
    read: what a person would not see is shown as well.
    """
    pieces: list[str] = []
    unclosed: set[str] = set()
    position = 0
    while (start := document.find("<", position)) >= 0:
        pieces.append(document[position:start])
        tag = _TAG.match(document, start)
        if tag is None:  # a lone <
            pieces.append("<")
            position = start + 1
            continue
        end = _end_of_tag(document, tag, unclosed)
        if end is None:
            return _lines("".join(pieces))
        if tag[1].lower().lstrip("/") in _BREAKS:
            pieces.append("\v")
        position = end
    return _lines("".join(pieces) + document[position:])


def _end_of_tag(document: str, tag: re.Match[str], unclosed: set[str]) -> int | None:
    """Finds where text goes on; what was once looked for in vain is not looked for again, or it would take forever."""
    silent_end = _SILENT_ENDS.get(tag[1].lower())
    if silent_end is not None and silent_end.pattern not in unclosed:
        found = silent_end.search(document, tag.end())
        if found:
            return found.end()
        unclosed.add(silent_end.pattern)
    end = document.find(">", tag.end())
    return None if end < 0 else end + 1


def _lines(text: str) -> str:
    lines = (" ".join(line.split()) for line in _unescape(text.replace("\n", " ")).split("\v"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _unescape(text: str) -> str:
    try:
        return html.unescape(text)
    except ValueError:  # a character reference with thousands of digits
        return text
