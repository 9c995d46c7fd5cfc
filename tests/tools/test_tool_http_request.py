"""`http.request`: only to allowed hosts, only to public addresses, only where it was checked to go (M6)."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import json
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from activities.tools import http_request
from activities.tools.destination import resolve_system
from activities.tools.invocation import ToolResult
from holdfast.errors import LeaseLost, RequestInvalid
from holdfast_verdict.canonical import JsonValue

from .conftest import Invoke
from .cut_off import cut_off
from .live_lease import LiveLease
from .raw_server import RawServer, raw_server

NAME = "api.partner.example"
METHODS = ["GET", "HEAD", "POST", "DELETE"]


@dataclass
class Names:
    """A resolver whose answers change from one question to the next."""

    answers: list[Sequence[str]]
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str, _port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


LOOPBACK = Names([["127.0.0.1"]])


def vault(*hosts: str, allow_private: bool = True) -> dict[str, JsonValue]:
    return {"allowed_hosts": list(hosts), "methods": METHODS, "allow_private": allow_private}


async def ask(
    invoke: Invoke, server: RawServer, *, method: str = "GET", target: str = "/", body: str | None = None
) -> ToolResult:
    arguments: dict[str, JsonValue] = {"method": method, "url": f"http://{NAME}:{server.port}{target}", "body": body}
    call = invoke("http.request", arguments, vault(f"{NAME}:{server.port}"))
    return await http_request.run(call, resolve=Names([["127.0.0.1"]]))


async def test_the_request_is_exactly_what_was_decided(invoke: Invoke, lease: LiveLease) -> None:
    async with raw_server() as server:
        result = await ask(invoke, server, method="POST", target="/a/./b?x=%c3%a4&y=a+b%2Fc", body='{"a": "ü"}')
    assert (result.ok, result.cost) == (True, "known")
    assert json.loads(result.content) == {"status": 200, "content_type": "text/plain", "body": "ok", "truncated": False}
    [request] = server.requests
    lines = request.decode().split("\r\n")
    assert lines[0] == "POST /a/b?x=%C3%A4&y=a+b%2Fc HTTP/1.1"
    assert f"Host: {NAME}:{server.port}" in lines
    assert "Content-Type: application/json" in lines
    assert lines[-1] == '{"a": "ü"}'
    assert (lease.begun, lease.checked) == (1, 1)


async def test_a_name_is_resolved_once_and_that_very_address_is_used(invoke: Invoke) -> None:
    """DNS rebinding: the second answer points at another server on the same port."""
    async with raw_server() as checked, raw_server("127.0.0.2", checked.port) as rebound:
        names = Names([["127.0.0.1"], ["127.0.0.2"]])
        call = invoke(
            "http.request", {"method": "GET", "url": f"http://{NAME}:{checked.port}/"}, vault(f"{NAME}:{checked.port}")
        )
        result = await http_request.run(call, resolve=names)
    assert result.ok
    assert names.asked == [NAME]
    assert (checked.connections, rebound.connections) == (1, 0)


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"], ["10.0.0.7"], ["169.254.169.254"], ["100.64.0.1"], ["0.0.0.0"], ["224.0.0.1"], ["::1"], ["::ffff:127.0.0.1"],
        ["fd00::1"], ["fe80::1%lo"], ["64:ff9b::7f00:1"], ["2002:7f00:1::"], ["8.8.8.8", "127.0.0.1"], ["2606:4700::1111", "::1"],
        ["localhost"],
    ],
)  # fmt: skip
async def test_a_name_that_leads_inside_is_refused_before_anything_leaves(
    invoke: Invoke, lease: LiveLease, addresses: list[str]
) -> None:
    call = invoke("http.request", {"method": "GET", "url": f"https://{NAME}/"}, vault(NAME, allow_private=False))
    result = await http_request.run(call, resolve=Names([addresses]))
    assert (result.ok, result.cost, result.error_code) == (False, "nothing", "http.address_refused")
    assert lease.begun == 0


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "[::1]",
        "[fd00:ec2::254]",
        "0.0.0.0",
    ],
)
async def test_an_address_instead_of_a_name_gets_no_further(invoke: Invoke, lease: LiveLease, host: str) -> None:
    call = invoke("http.request", {"method": "GET", "url": f"http://{host}/"}, vault(host, "*", allow_private=False))
    result = await http_request.run(call, resolve=LOOPBACK)
    assert (result.cost, result.error_code) == ("nothing", "http.address_refused")
    assert lease.begun == 0


@pytest.mark.parametrize("host", ["[::ffff:169.254.169.254]", "[64:ff9b::a00:1]"])
def test_a_second_spelling_of_an_address_is_refused_before_that(invoke: Invoke, host: str) -> None:
    with pytest.raises(RequestInvalid, match="inside it"):
        invoke("http.request", {"method": "GET", "url": f"http://{host}/"}, vault(host, "*", allow_private=False))


async def test_metadata_addresses_stay_closed_even_with_the_opt_in(invoke: Invoke, lease: LiveLease) -> None:
    call = invoke("http.request", {"method": "GET", "url": f"http://{NAME}/"}, vault(NAME))
    result = await http_request.run(call, resolve=Names([["169.254.169.254"]]))
    assert (result.error_code, lease.begun) == ("http.address_refused", 0)


@pytest.mark.parametrize(
    ("method", "url", "code"),
    [
        ("GET", "http://other.example/", "http.host_refused"),
        ("GET", f"http://{NAME}.evil.example/", "http.host_refused"),
        ("GET", f"http://x{NAME}/", "http.host_refused"),
        ("GET", f"http://{NAME}:8080/", "http.host_refused"),
        ("GET", f"https://{NAME}:80/", "http.host_refused"),
        ("PUT", f"http://{NAME}/", "http.method_refused"),
    ],
)
async def test_hosts_ports_and_methods_are_allow_listed(
    invoke: Invoke, lease: LiveLease, method: str, url: str, code: str
) -> None:
    names = Names([["8.8.8.8"]])
    result = await http_request.run(invoke("http.request", {"method": method, "url": url}, vault(NAME)), resolve=names)
    assert (result.ok, result.cost, result.error_code) == (False, "nothing", code)
    assert (names.asked, lease.begun) == ([], 0)


async def test_names_that_do_not_resolve(invoke: Invoke, lease: LiveLease) -> None:
    async def broken(_host: str, _port: int) -> Sequence[str]:
        raise OSError("no such name")

    call = invoke("http.request", {"method": "GET", "url": f"http://{NAME}/"}, vault(NAME))
    for resolve in (broken, Names([[]])):
        result = await http_request.run(call, resolve=resolve)
        assert (result.cost, result.error_code, result.retryable) == ("nothing", "http.unresolved", True)
    assert lease.begun == 0
    assert await resolve_system("localhost", 80)


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("http://169.254.169.254/latest", "http://169.254.169.254/latest"),
        ("/next?a=1", f"http://{NAME}:PORT/next?a=1"),
        ("//other.example/x", "http://other.example/x"),
        ("http://user:pw@other.example/", "(not a usable address: 'http://user:pw@other.example/')"),
        ("javascript:alert(1)", "(not a usable address: 'javascript:alert(1)')"),
        ("http://2130706433/", "(not a usable address: 'http://2130706433/')"),
    ],
)
async def test_a_redirect_is_shown_and_not_followed(invoke: Invoke, location: str, shown: str) -> None:
    answer = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
    async with raw_server(answer=answer) as server:
        result = await ask(invoke, server)
    assert result.ok
    content = json.loads(result.content)
    assert (content["status"], content["location"]) == (302, shown.replace("PORT", str(server.port)))
    assert server.connections == 1


async def test_the_environment_has_no_say(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text(f"machine {NAME} login u password hush\nmachine 127.0.0.1 login u password hush\n")
    async with raw_server() as proxy, raw_server() as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        assert (await ask(invoke, server)).ok
    assert (proxy.connections, server.connections) == (0, 1)
    assert b"authorization" not in server.requests[0].lower()


async def test_the_answer_is_bounded_in_size(invoke: Invoke) -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        while True:
            writer.write(b"a" * 65_536)
            await writer.drain()

    async with raw_server(answer=endless) as server:
        result = await ask(invoke, server)
    content = json.loads(result.content)
    assert (result.cost, content["truncated"], len(content["body"])) == ("known", True, 100_000)


async def test_compressed_bombs_are_not_unpacked(invoke: Invoke) -> None:
    bomb = gzip.compress(b"\0" * 20_000_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(
        bomb
    )
    async with raw_server(answer=head + bomb) as server:
        result = await ask(invoke, server)
    assert json.loads(result.content)["body"] == f"({len(bomb)} bytes that are not text)"
    assert b"accept-encoding: identity" in server.requests[0].lower()


async def test_the_answer_is_bounded_in_time(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with raw_server(answer=drip) as server:

        async def reads(bound_ms: int) -> ToolResult:
            monkeypatch.setattr(http_request, "_EXCHANGE_TIMEOUT_MS", bound_ms)
            return await ask(invoke, server)

        async def writes(bound_ms: int) -> ToolResult:
            monkeypatch.setattr(http_request, "_EXCHANGE_TIMEOUT_MS", bound_ms)
            return await ask(invoke, server, method="POST", body="x")

        reading, writing = await cut_off(reads), await cut_off(writes)
    assert (reading.cost, reading.error_code, reading.retryable) == ("unknown", "http.answer_lost", True)
    assert (writing.cost, writing.error_code, writing.retryable) == ("unknown", "http.answer_lost", False)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"rubbish\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000,
    ],
)
async def test_an_answer_that_breaks_off_leaves_the_outcome_unknown(invoke: Invoke, answer: bytes) -> None:
    async with raw_server(answer=answer) as server:
        result = await ask(invoke, server, method="DELETE")
    assert (result.ok, result.cost, result.retryable) == (False, "unknown", False)


async def test_a_closed_port_cost_nothing_and_the_next_address_is_tried(invoke: Invoke) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound but not listening: nobody else answers there meanwhile
        await _tries_the_next(invoke, held.getsockname()[1])


async def _tries_the_next(invoke: Invoke, port: int) -> None:
    async with raw_server("127.0.0.2", port) as server:
        arguments: dict[str, JsonValue] = {"method": "POST", "url": f"http://{NAME}:{port}/"}
        call = invoke("http.request", arguments, vault(f"{NAME}:{server.port}"))
        closed = await http_request.run(call, resolve=Names([["127.0.0.1"]]))
        assert (closed.cost, closed.error_code, closed.retryable) == ("nothing", "http.unreachable", True)
        assert (await http_request.run(call, resolve=Names([["127.0.0.1", "127.0.0.2"]]))).ok
    assert server.connections == 1


@pytest.mark.parametrize(
    ("method", "status", "retryable"),
    [("GET", 404, False), ("GET", 503, True), ("POST", 503, False), ("POST", 429, True), ("POST", 400, False)],
)
async def test_failures_are_answers(invoke: Invoke, method: str, status: int, retryable: bool) -> None:
    answer = f"HTTP/1.1 {status} X\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\nno".encode()
    async with raw_server(answer=answer) as server:
        result = await ask(invoke, server, method=method)
    assert (result.ok, result.cost, result.error_code, result.retryable) == (False, "known", "http.status", retryable)
    assert result.retry_after_ms == 7000


async def test_without_its_lease_no_byte_is_written(invoke: Invoke, lease: LiveLease) -> None:
    lease.lost_before_writing = True
    async with raw_server() as server:
        with pytest.raises(LeaseLost):
            await ask(invoke, server, method="POST", body="x")
        lease.lost_before_begin = True
        with pytest.raises(LeaseLost):
            await ask(invoke, server, method="POST", body="x")
    assert server.requests == []


def _certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Makes a self-signed certificate; returns the server's context and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    names = [x509.DNSName(name)] if not name[0].isdigit() else [x509.IPAddress(ipaddress.ip_address(name))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "server.pem"
    path.write_bytes(secret + pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cadata=pem.decode())


async def test_the_certificate_is_verified_for_the_name_though_an_address_is_connected_to(
    invoke: Invoke, tmp_path: Path
) -> None:
    server_tls, client_tls = _certificate(tmp_path, NAME)
    async with raw_server(tls=server_tls) as server:
        arguments: dict[str, JsonValue] = {"method": "GET", "url": f"https://{NAME}:{server.port}/"}
        call = invoke("http.request", arguments, vault(f"{NAME}:{server.port}"))
        assert (await http_request.run(call, resolve=LOOPBACK, tls=client_tls)).ok
        assert server.server_names == [NAME]
        untrusted = await http_request.run(call, resolve=LOOPBACK)
        assert (untrusted.cost, untrusted.error_code) == ("nothing", "http.unreachable")
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", ["other.example", "127.0.0.1"])
async def test_a_certificate_of_another_name_is_refused_before_the_request(
    invoke: Invoke, tmp_path: Path, name: str
) -> None:
    server_tls, client_tls = _certificate(tmp_path, name)
    async with raw_server(tls=server_tls) as server:
        arguments: dict[str, JsonValue] = {"method": "POST", "url": f"https://{NAME}:{server.port}/", "body": "x"}
        call = invoke("http.request", arguments, vault(f"{NAME}:{server.port}"))
        result = await http_request.run(call, resolve=LOOPBACK, tls=client_tls)
    assert (result.cost, result.error_code) == ("nothing", "http.unreachable")
    assert server.requests == []
