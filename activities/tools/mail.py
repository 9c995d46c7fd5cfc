"""Runs `mail.list`, `mail.read` and `mail.send`."""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import json
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage
from pathlib import Path
from typing import Literal

import aiosmtplib
from pydantic import SecretStr

from activities.tools.invocation import Credential, ToolInvocation, ToolResult
from activities.tools.mailbox import MailUnreadable, mail_ids, read_mail, read_summary
from holdfast.tools.registry import MailRead, MailSend
from holdfast_verdict.canonical import JsonValue

_COMMAND_TIMEOUT_S = 20
_SEND_TIMEOUT_S = 60
_IMPLICIT_TLS_PORT = 465
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_TEMPORARY, _PERMANENT, _PAST = 400, 500, 600


class MailCredential(Credential):
    """The vault entry `tool.mail`.

    Attributes:
        smtp_host: Server that takes outgoing mail.
        smtp_port: Its port.
        username: For SMTP authentication, or None.
        password: Goes with it.
        from_address: Sender of every mail.
        maildir: Folder of the incoming mails, one `.eml` file each.
        tls: `implicit`, `starttls` or `none`; None chooses by port, and does without on loopback only.
    """

    smtp_host: str
    smtp_port: int
    username: str | None = None
    password: SecretStr | None = None
    from_address: str
    maildir: Path
    tls: Literal["implicit", "starttls", "none"] | None = None

    @property
    def encryption(self) -> Literal["implicit", "starttls", "none"]:
        """How the connection is encrypted."""
        if self.tls is not None:
            return self.tls
        if self.smtp_port == _IMPLICIT_TLS_PORT:
            return "implicit"
        return "none" if self.smtp_host in _LOOPBACK else "starttls"


async def run(call: ToolInvocation) -> ToolResult:
    """Runs the mail tool that the call names."""
    credential = call.read_credential(MailCredential)
    if call.tool == "mail.send":
        return await _send(call, credential, MailSend.model_validate(call.arguments))
    await call.outward.begin()
    try:
        if call.tool == "mail.read":
            mail_id = MailRead.model_validate(call.arguments).mail_id
            return _shown(await asyncio.to_thread(read_mail, credential.maildir, mail_id))
        return _shown({"mails": await asyncio.to_thread(_summaries, credential.maildir)})
    except MailUnreadable as error:
        return ToolResult.nothing(error.code, error.message)
    except OSError as error:
        return ToolResult.nothing("mail.inbox_unavailable", f"the inbox cannot be read ({type(error).__name__})")


def _shown(value: JsonValue) -> ToolResult:
    return ToolResult.done(json.dumps(value, ensure_ascii=False))


def _summaries(maildir: Path) -> list[JsonValue]:
    summaries: list[JsonValue] = []
    for mail_id in mail_ids(maildir):
        try:
            summaries.append({**read_summary(maildir, mail_id)})
        except MailUnreadable as error:
            summaries.append({"mail_id": mail_id, "unreadable": error.message})
    return summaries


def compose(arguments: MailSend, from_address: str, idempotency_key: str) -> EmailMessage:
    """Builds the mail; the Message-ID derives from the step's key, so that doubles could be told (LAW 9)."""
    domain = from_address.rpartition("@")[2]
    message = EmailMessage(policy=policy.SMTP)
    message["From"] = Address(addr_spec=from_address)
    message["To"] = [Address(addr_spec=recipient) for recipient in arguments.to]
    message["Subject"] = arguments.subject
    message["Date"] = email.utils.localtime()
    message["Message-ID"] = f"<{hashlib.sha256(idempotency_key.encode()).hexdigest()[:40]}@{domain}>"
    if arguments.in_reply_to is not None:
        message["In-Reply-To"] = arguments.in_reply_to
        message["References"] = arguments.in_reply_to
    message.set_content(arguments.body)
    return message


async def _send(call: ToolInvocation, credential: MailCredential, arguments: MailSend) -> ToolResult:
    message = compose(arguments, credential.from_address, call.idempotency_key)
    client = aiosmtplib.SMTP(
        hostname=credential.smtp_host,
        port=credential.smtp_port,
        username=credential.username,
        password=credential.password.get_secret_value() if credential.password else None,
        local_hostname=credential.from_address.rpartition("@")[2],
        timeout=_COMMAND_TIMEOUT_S,
        use_tls=credential.encryption == "implicit",
        start_tls=credential.encryption == "starttls",
    )
    handed_over = False
    await call.outward.begin()
    try:
        async with asyncio.timeout(_SEND_TIMEOUT_S):
            await client.connect()
            await client.mail(credential.from_address)
            # One refused recipient refuses the mail: what was approved is a mail to all of them.
            for recipient in arguments.to:
                await client.rcpt(recipient)
            call.outward.assert_live()
            handed_over = True
            await client.data(message.as_bytes())
    except aiosmtplib.SMTPResponseException as refusal:
        # A final 4xx or 5xx reply says that the server has not taken the mail (RFC 5321, 4.2.5), after DATA as well.
        if _TEMPORARY <= refusal.code < _PAST:
            return ToolResult.nothing(
                "mail.refused",
                f"the mail server refused with code {refusal.code}; nothing was sent",
                retryable=refusal.code < _PERMANENT,
            )
        return _lost(refusal, handed_over=handed_over)
    except (aiosmtplib.SMTPException, OSError) as error:
        return _lost(error, handed_over=handed_over)
    finally:
        client.close()
    return _shown({"sent": True, "to": list(arguments.to), "message_id": message["Message-ID"]})


def _lost(error: Exception, *, handed_over: bool) -> ToolResult:
    if handed_over:
        return ToolResult.unknown(
            "mail.answer_lost",
            "the mail was handed over, but the server's answer was lost; it may have been sent. Do not send it again",
        )
    return ToolResult.nothing(
        "mail.server_unavailable",
        f"the mail server did not answer ({type(error).__name__}); nothing was sent",
        retryable=True,
    )
