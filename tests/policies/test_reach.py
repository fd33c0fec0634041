"""Where policies' servers may be, and which variables may hold their keys."""

import socket
from ipaddress import ip_address
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Role
from app.errors import InvalidInput
from app.policies.reach import NotReachable, check_base_url, is_allowed, is_public, resolve
from app.policies.schemas import PolicyIn
from app.settings import Settings
from tests.factories.accounts import bearer, create_user

PRIVATE = (
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fd00::1", "ff02::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::a9fe:a9fe"),
)


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_the_open_internets_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))
    assert not is_allowed("gpu", ip_address(address), ())


def test_public_addresses_are_public_however_they_are_written() -> None:
    for address in ("8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808"):
        assert is_public(ip_address(address))


def test_the_setting_names_hosts_addresses_and_networks() -> None:
    inside = ip_address("10.1.2.3")
    assert is_allowed("GPU", inside, ("gpu",))
    assert is_allowed("other", inside, ("gpu", "10.1.0.0/16"))
    assert is_allowed("other", inside, ("10.1.2.3",))
    assert is_allowed("other", ip_address("::ffff:10.1.2.3"), ("10.1.0.0/16",))
    assert not is_allowed("other", inside, ("gpu", "10.2.0.0/16", "10.1.2.4"))


async def test_a_name_is_judged_by_the_address_that_it_means() -> None:
    with pytest.raises(NotReachable, match=r"localhost \(.*\) is not a public address"):
        await resolve("localhost", 80, ())
    assert "127.0.0.1" in await resolve("localhost", 80, ("localhost",))
    for written in ("2130706433", "0x7f000001", "127.1"):  # the resolver takes all of these
        with pytest.raises(NotReachable):
            await resolve(written, 80, ())


async def test_of_several_addresses_only_the_allowed_ones_are_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import asyncio

    async def answer(*_: Any, **__: Any) -> list[Any]:
        found = ("10.0.0.1", "8.8.8.8")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 80)) for each in found]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", answer)
    assert await resolve("two.example", 80, ()) == ["8.8.8.8"]


@pytest.mark.parametrize(
    "variable",
    ["DATABASE_URL", "HOME", "AWS_SECRET_ACCESS_KEY", "PLACKETT_DATA_DIR", "PLACKETT_KEY_"],
)
def test_a_policy_names_a_variable_of_the_prefix_only(variable: str) -> None:
    wanted = {
        "name": "x",
        "backend": "openai",
        "model": "m",
        "base_url": "https://models.example/v1",
    }
    PolicyIn.model_validate(wanted | {"api_key_variable": "PLACKETT_KEY_MISTRAL"})
    with pytest.raises(ValidationError, match="PLACKETT_KEY_"):
        PolicyIn.model_validate(wanted | {"api_key_variable": variable})


@pytest.mark.parametrize(
    "address",
    [
        "http://user:word@models.example",
        "https://models.example/v1?key=x",
        "http://",
        "http://h:x/",
    ],
)
def test_a_servers_address_holds_no_key(address: str) -> None:
    with pytest.raises(ValidationError, match="base_url"):
        PolicyIn.model_validate(
            {"name": "x", "backend": "openai", "model": "m", "base_url": address}
        )


async def test_whoever_registers_a_server_that_would_not_be_called_is_told(
    app: FastAPI, client: httpx.AsyncClient, session: AsyncSession
) -> None:
    headers = await bearer(session, await create_user(session, Role.ADMIN))
    wanted = {"backend": "openai", "model": "m"}
    for number, (address, status) in enumerate(
        [
            ("http://169.254.169.254/latest", 422),
            ("http://[::1]:8000/v1", 422),
            ("http://localhost/v1", 201),  # 127.0.0.0/8 is allowed to the tests
            ("http://no-such-name.invalid/v1", 201),  # the worker may know it
        ]
    ):
        body = wanted | {"name": f"policy {number}", "base_url": address}
        answer = await client.post("/api/v1/policies", json=body, headers=headers)
        assert answer.status_code == status, answer.text
        if status == 422:
            assert answer.json()["place"] == "base_url"


async def test_nothing_private_is_allowed_unless_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PLACKETT_POLICY_PRIVATE_HOSTS")
    assert Settings().policy_private_hosts == ()
    with pytest.raises(InvalidInput, match="not a public address"):
        await check_base_url("http://127.0.0.1:8000/v1", Settings().policy_private_hosts)
    monkeypatch.setenv("PLACKETT_POLICY_PRIVATE_HOSTS", "vllm, 10.0.0.0/8,")
    assert Settings().policy_private_hosts == ("vllm", "10.0.0.0/8")
