"""Mail: sent at most once and never silently lost, read without harm."""

from __future__ import annotations

import asyncio
import json
import os
from email import policy
from pathlib import Path

import pytest

from activities.tools.dispatch import run_tool
from activities.tools.invocation import ToolResult
from activities.tools.mail import MailCredential, compose
from activities.tools.mailbox import MAIL_BYTES_MAX, MailUnreadable, mail_ids, read_mail, read_summary
from demo.refund_desk.world.faults import Fault
from demo.refund_desk.world.servers import INBOX, World
from demo.refund_desk.world.smtp_server import stored_mails
from holdfast.errors import LeaseLost
from holdfast.tools.registry import MailSend
from holdfast_verdict.canonical import JsonValue

from .conftest import Invoke
from .live_lease import LiveLease

LETTER: dict[str, JsonValue] = {
    "to": ["maria.lindgren@customer.example", "joerg@bücher.example"],
    "subject": "Rückerstattung: «A-1003»",
    "body": "Guten Tag,\n.\n.. Zeile mit Punkt\nGrüße\n",
    "in_reply_to": "<20260601081402.7A11@customer.example>",
}


async def send(invoke: Invoke, world: World, **changes: JsonValue) -> ToolResult:
    return await run_tool(invoke("mail.send", {**LETTER, **changes}, world.credentials()["tool.mail"]))


async def test_a_mail_arrives_whole_and_once(invoke: Invoke, world: World, lease: LiveLease) -> None:
    result = await send(invoke, world)
    assert (result.ok, result.cost, result.error_code) == (True, "known", None)
    [mail] = stored_mails(world.sent)
    assert mail["Subject"] == "Rückerstattung: «A-1003»"
    assert mail["From"] == "support@acme.example"
    assert mail["Delivered-To"] == "maria.lindgren@customer.example, joerg@xn--bcher-kva.example"
    assert mail["In-Reply-To"] == "<20260601081402.7A11@customer.example>"
    assert mail.get_content().replace("\r\n", "\n") == LETTER["body"]
    assert json.loads(result.content)["message_id"] == mail["Message-ID"]
    assert (lease.begun, lease.checked) == (1, 1)


async def test_the_message_id_derives_from_the_key(invoke: Invoke, world: World) -> None:
    for key in ("acme:run:1", "acme:run:1", "acme:run:2"):
        await run_tool(invoke("mail.send", LETTER, world.credentials()["tool.mail"], key=key))
    first, again, other = (mail["Message-ID"] for mail in stored_mails(world.sent))
    assert first == again != other


@pytest.mark.parametrize(("kind", "retryable"), [("error_before", False), ("rate_limited", True)])
async def test_a_refusal_means_that_nothing_was_sent(invoke: Invoke, world: World, kind: str, retryable: bool) -> None:
    world.faults.add("mail", Fault("error_before" if kind == "error_before" else "rate_limited"))
    result = await send(invoke, world)
    assert (result.ok, result.cost, result.error_code, result.retryable) == (
        False,
        "nothing",
        "mail.refused",
        retryable,
    )
    assert stored_mails(world.sent) == []


async def test_a_lost_answer_leaves_the_outcome_unknown_and_is_not_retried(invoke: Invoke, world: World) -> None:
    world.faults.add("mail", Fault("answer_lost"))
    result = await send(invoke, world)
    assert (result.cost, result.error_code, result.retryable) == ("unknown", "mail.answer_lost", False)
    assert len(stored_mails(world.sent)) == 1


async def test_an_unreachable_server_means_that_nothing_was_sent(invoke: Invoke, world: World) -> None:
    credential = {**world.credentials()["tool.mail"], "smtp_port": 1}
    result = await run_tool(invoke("mail.send", LETTER, credential))
    assert (result.cost, result.error_code, result.retryable) == ("nothing", "mail.server_unavailable", True)


async def test_a_server_that_hangs_up_before_data_got_nothing(invoke: Invoke, world: World) -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        credential = {**world.credentials()["tool.mail"], "smtp_port": server.sockets[0].getsockname()[1]}
        result = await run_tool(invoke("mail.send", LETTER, credential))
    assert (result.cost, result.retryable) == ("nothing", True)


async def test_without_its_lease_nothing_leaves(invoke: Invoke, world: World, lease: LiveLease) -> None:
    lease.lost_before_writing = True
    with pytest.raises(LeaseLost):
        await send(invoke, world)
    lease.lost_before_begin = True
    with pytest.raises(LeaseLost):
        await send(invoke, world)
    assert stored_mails(world.sent) == []


async def test_a_password_never_goes_over_a_plain_connection_by_itself(invoke: Invoke, world: World) -> None:
    base: dict[str, JsonValue] = {**world.credentials()["tool.mail"], "username": "u", "password": "hush"}
    assert MailCredential.model_validate({**base, "smtp_host": "mail.acme.example"}).encryption == "starttls"
    assert MailCredential.model_validate({**base, "smtp_port": 465}).encryption == "implicit"
    assert "hush" not in repr(MailCredential.model_validate(base))
    result = await run_tool(invoke("mail.send", LETTER, {**base, "tls": "starttls"}))
    assert (result.cost, "hush" in result.content) == ("nothing", False)
    assert stored_mails(world.sent) == []


def test_nothing_in_the_arguments_becomes_a_header() -> None:
    arguments = MailSend(to=["a@b.example"], subject="x" * 200, body="Bcc: c@d.example\n\n.\nX-Header: y")
    head, _, body = compose(arguments, "support@acme.example", "k").as_bytes(policy=policy.SMTP).partition(b"\r\n\r\n")
    names = {line.partition(b":")[0].lower() for line in head.split(b"\r\n") if not line.startswith((b" ", b"\t"))}
    assert names == {
        b"from", b"to", b"subject", b"date", b"message-id", b"content-type", b"content-transfer-encoding", b"mime-version",
    }  # fmt: skip
    assert body.startswith(b"Bcc: c@d.example\r\n\r\n.\r\n")


async def test_the_inbox_is_listed_and_read(invoke: Invoke, world: World, lease: LiveLease) -> None:
    credential = world.credentials()["tool.mail"]
    listing = await run_tool(invoke("mail.list", {}, credential))
    mails = json.loads(listing.content)["mails"]
    assert [mail["mail_id"] for mail in mails] == mail_ids(INBOX)
    assert len(mails) == 8
    assert lease.begun == 1
    german = read_mail(INBOX, "02-schlafsack-zu-spaet")
    assert german["from"] == "Jörg Weiß <joerg.weiss@customer.example>"
    assert "zurückgeschickt und möchte den Kaufpreis zurück" in str(german["text"]).replace("\n", " ")
    html = str(read_mail(INBOX, "06-water-filter-html")["text"])
    assert "seal & tape.\nI’d like my money back" in html
    assert "track" not in html
    assert "Verdana" not in html
    assert read_mail(INBOX, "03-expedition-tent")["attachments"] == ["broken-pole.png"]
    assert "tenant globex" in str(read_mail(INBOX, "07-when-was-it-delivered")["text"])


async def test_an_unknown_mail_and_an_unknown_inbox_are_results(invoke: Invoke, world: World) -> None:
    credential = world.credentials()["tool.mail"]
    missing = await run_tool(invoke("mail.read", {"mail_id": "99-none"}, credential))
    assert (missing.error_code, missing.content) == ("mail.unreadable", "there is no mail 99-none")
    nowhere = await run_tool(invoke("mail.list", {}, {**credential, "maildir": "/nowhere"}))
    assert (nowhere.error_code, "/nowhere" in nowhere.content) == ("mail.inbox_unavailable", False)


@pytest.mark.timeout(60)
def test_only_regular_files_of_the_folder_are_read(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    secret = tmp_path / "secret.eml"
    secret.write_bytes(b"Subject: secret\n\nsecret")
    (inbox / "link.eml").symlink_to(secret)
    (inbox / "folder.eml").mkdir()
    os.mkfifo(inbox / "pipe.eml")
    (inbox / "huge.eml").write_bytes(b"a" * (MAIL_BYTES_MAX + 1))
    (inbox / "odd name.eml").write_bytes(b"x")
    for mail_id in ("link", "folder", "pipe", "huge", "../secret", "..", "odd name", "none", "a/../link", ""):
        with pytest.raises(MailUnreadable):
            read_mail(inbox, mail_id)
    assert mail_ids(inbox) == ["folder", "huge", "link", "pipe"]


def _nested(depth: int) -> bytes:
    return b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(depth))


RUBBISH = {
    "empty": b"",
    "binary": bytes(range(256)) * 400,
    "one-line": b"a" * 1_000_000,
    "nested": _nested(200),
    "nested-deep": _nested(3_000),
    "boundaries": b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\n" * 150_000,
    "comments": b"From: " + b"(" * 100_000 + b"\nContent-Type: " + b"(" * 100_000 + b"\n\nx",
    "quotes": b"From: " + b'"' * 100_000 + b"\nTo: " + b"<" * 100_000 + b"\n\nx",
    "encoded-words": b"Subject: " + b"=?utf-8?q?a?= " * 20_000 + b"\n\nx",
    "broken-words": b"Subject: =?nope?x?\xff?= =?utf-8?b?////=?= =?utf-8?q?a=0ABcc:_x?=\nFrom: =?utf-8?q?=ED=A0=80?= <\xff>\n\nx",
    "parameters": b"Content-Type: text/plain; " + b"a*0*=x;" * 100_000 + b"\n\nx",
    "disposition": b"Content-Disposition: " + b"a;" * 300_000 + b"\n\nx",
    "long-boundary": b'Content-Type: multipart/mixed; boundary="' + b"a" * 900_000 + b'"\n\nx',
    "unknown-charset": b"Content-Type: text/plain; charset=klingon\n\nqapla'",
    "codec-charset": b"Content-Type: text/plain; charset=zlib\n\nhello",
    "bad-base64": b"Content-Transfer-Encoding: base64\n\n====%%%" + b"=" * 500_000,
    "bad-dates": b"Date: Mon, 99 Foo 99999999999 99:99:99 +9999\nMessage-ID: <<<>>>\n\nx",
    "no-headers": b"\n\nonly text",
    "message-in-message": b"Content-Type: message/rfc822\n\n" * 200 + b"Subject: inner\n\nx",
    "controls": b"Subject: a\x00b\x1b[31m\n\n\x1b[2J\x00\x07text\x9b",
    "html-open-tags": b"Content-Type: text/html\n\n" + b"<a " * 300_000,
    "html-attributes": b"Content-Type: text/html\n\n" + b'<a b="' * 150_000,
    "html-comments": b"Content-Type: text/html\n\n" + b"<!--" * 250_000,
    "html-scripts": b"Content-Type: text/html\n\n" + b"<script>" * 120_000,
    "html-digits": b"Content-Type: text/html\n\n&#" + b"9" * 900_000 + b";",
    "html-entities": b"Content-Type: text/html\n\n<!DOCTYPE x [<!ENTITY a '&b;&b;'>]>" + b"&a;" * 100_000,
    "html-deep": b"Content-Type: text/html\n\n" + b"<div>" * 200_000 + b"end",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", sorted(RUBBISH))
def test_no_mail_breaks_or_blocks_the_reader(tmp_path: Path, name: str) -> None:
    (tmp_path / "m.eml").write_bytes(RUBBISH[name])
    for read in (read_mail, read_summary):
        try:
            shown = read(tmp_path, "m")
        except MailUnreadable:
            continue
        assert len(json.dumps(shown).encode()) < 200_000
        headers = [str(value) for key, value in shown.items() if key not in ("text", "attachments")]
        assert all(header.isprintable() for header in headers), headers
        assert not any(ord(character) < 32 and character not in "\n\t" for character in str(shown.get("text", "")))


def test_the_text_of_html_is_what_stands_between_the_tags(tmp_path: Path) -> None:
    html = (
        b"Content-Type: text/html; charset=utf-8\n\n<html><head><title>t</title></head><BODY>one<br/>two &lt;b&gt; 1 < 2"
        b"<!-- no --> <SCRIPT x='>'>no</Script><p hidden>seen</p><style>no</style>&copy;<script>last"
    )
    (tmp_path / "m.eml").write_bytes(html)
    assert read_mail(tmp_path, "m")["text"] == "one\ntwo <b> 1 < 2\nseen\n©last"
