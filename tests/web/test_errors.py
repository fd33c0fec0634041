"""What goes wrong outside is answered as what it is."""

import logging
import uuid
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from structlog.testing import capture_logs


async def test_a_browser_that_hangs_up_in_the_middle_is_no_fault_of_ours(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"email=a", "more_body": True},
        {"type": "http.disconnect"},
    ]
    came = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(came)

    async def send(message: Any) -> None:
        sent.append(message)

    address = f"/rate/assignments/{uuid.uuid4()}"
    scope = {
        "type": "http",
        "method": "POST",
        "path": address,
        "raw_path": address.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/x-www-form-urlencoded")],
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
        "scheme": "http",
        "http_version": "1.1",
    }
    with caplog.at_level(logging.ERROR):
        await app(scope, receive, send)
    assert sent[0]["status"] == 499
    assert caplog.records == []


async def test_an_error_that_nobody_expects_is_answered_like_everything_else(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    @app.get("/boom/{token}")
    async def boom(token: str) -> None:
        raise RuntimeError("a slip of ours")

    headers = {"Accept": "text/html", "Accept-Language": "de"}
    with capture_logs() as told:
        answer = await client.get("/boom/a-secret", headers=headers)
    assert answer.status_code == 500
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    assert 'lang="de"' in answer.text
    assert "a slip of ours" not in answer.text
    assert [(each["event"], each["path"]) for each in told] == [
        ("an unexpected error", "/boom/{token}"),
        ("request", "/boom/{token}"),
    ]
    assert told[1]["status"] == 500
