"""A connection goes to the address that was judged, and a certificate is still checked against the name."""

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.generation.backends.transport import GuardedTransport
from app.policies.reach import NotReachable

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


@dataclass
class Listener:
    """A server on a loopback port that notes what it was sent."""

    port: int = 0
    asked: list[str] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(ANSWER)
        await writer.drain()
        writer.close()


@pytest.fixture
async def plain() -> AsyncIterator[Listener]:
    listener = Listener()
    server = await asyncio.start_server(listener.answer, "127.0.0.1", 0)
    listener.port = server.sockets[0].getsockname()[1]
    async with server:
        yield listener


@pytest.fixture
async def encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Listener]:
    """One whose certificate is for the name models.test."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", key, "-out", certificate, "-subj", "/CN=models.test"),
            *("-addext", "subjectAltName=DNS:models.test"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    listener = Listener()
    server = await asyncio.start_server(listener.answer, "127.0.0.1", 0, ssl=context)
    listener.port = server.sockets[0].getsockname()[1]
    async with server:
        yield listener


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every name means loopback; which were asked for."""
    asked: list[str] = []

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    return asked


async def get(address: str, *allowed: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=GuardedTransport(allowed)) as client:
        return await client.get(address)


async def test_a_name_is_resolved_once_and_still_said_to_the_server(
    plain: Listener, names: list[str]
) -> None:
    answer = await get(f"http://models.test:{plain.port}/v1", "models.test")
    assert answer.text == "ok"
    assert names == ["models.test"]
    assert f"host: models.test:{plain.port}" in plain.asked[0].lower()


async def test_what_is_not_allowed_is_sent_nothing(plain: Listener, names: list[str]) -> None:
    with pytest.raises(
        NotReachable, match=r"models\.test \(127\.0\.0\.1\) is not a public address"
    ):
        await get(f"http://models.test:{plain.port}/v1", "other.test", "10.0.0.0/8")
    assert plain.asked == []


async def test_a_certificate_is_checked_against_the_name_not_the_address(
    encrypted: Listener, names: list[str]
) -> None:
    answer = await get(f"https://models.test:{encrypted.port}/v1", "127.0.0.1")
    assert answer.text == "ok"
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        await get(f"https://other.test:{encrypted.port}/v1", "127.0.0.1")
    assert len(encrypted.asked) == 1


async def test_a_proxy_of_the_environment_is_used_and_private_names_stay_refused(
    plain: Listener, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{plain.port}")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(NotReachable):
        await get("http://models.test/v1")
    assert (await get("http://models.test/v1", "models.test")).text == "ok"
    assert plain.asked[0].startswith("GET http://models.test/v1 ")
