"""The files of a deployment, checked by reading them: no Docker engine is needed."""

import re
import shlex
from typing import Any

import yaml

from app.settings import CHECKOUT

COMPOSE: dict[str, Any] = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())
DOCKERFILE = (CHECKOUT / "Dockerfile").read_text()


def test_every_service_is_there_and_the_gpu_ones_wait_for_their_profile() -> None:
    services = COMPOSE["services"]
    assert set(services) == {"postgres", "migrate", "app", "worker", "trainer", "vllm"}
    for name, service in services.items():
        assert (service.get("profiles") == ["gpu"]) == (name in ("trainer", "vllm"))


def test_nothing_starts_before_the_database_is_migrated() -> None:
    for name in ("app", "worker", "trainer"):
        wanted = COMPOSE["services"][name]["depends_on"]["migrate"]
        assert wanted["condition"] == "service_completed_successfully"


def test_every_command_is_one_that_plackett_knows() -> None:
    from typer.testing import CliRunner

    from app.cli import commands

    for name in ("migrate", "app", "worker", "trainer"):
        command = COMPOSE["services"][name]["command"]
        words = shlex.split(command) if isinstance(command, str) else list(command)
        assert words[0] == "plackett"
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", " ".join(words[1:]))
        first, *flags = shlex.split(text)
        told = CliRunner().invoke(commands, [first, "--help"])
        assert told.exit_code == 0
        for flag in flags:
            assert not flag.startswith("--") or flag in told.output


def test_nobody_is_killed_before_they_may_have_ended() -> None:
    for name in ("app", "worker", "trainer"):
        period = COMPOSE["services"][name]["stop_grace_period"]
        assert int(period[:-1]) * {"s": 1, "m": 60}[period[-1]] > 15


def test_no_password_is_written_down() -> None:
    text = (CHECKOUT / "docker-compose.yml").read_text()
    for found in re.findall(r"PASSWORD: (.*)", text):
        assert found.startswith("${POSTGRES_PASSWORD:?")


def test_the_images_stages_are_those_that_compose_builds() -> None:
    stages = set(re.findall(r"^FROM \S+ AS (\w+)", DOCKERFILE, flags=re.MULTILINE))
    for service in COMPOSE["services"].values():
        if "build" in service:
            assert service["build"]["target"] in stages
    assert "USER plackett" in DOCKERFILE.split("FROM web AS worker")[1]
