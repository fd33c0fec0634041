"""The whole loop turns once: a real model, the real API, the real worker, a rater whose taste is known.

Prompts go in; the worker writes candidates; a simulated rater ranks them through the HTTP API; an export
goes to the trainer; a reward model is fitted; PPO updates the policy; the worker writes with it.

The rater likes the share of sentences that end in an exclamation mark. What goes with it and is not it, the
number of exclamation marks, must not do: pairs on which the two oppose each other tell whether the reward
model has learnt the taste, and the policy must not write more sentences to get more marks.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from app.db.engine import open_sessions
from app.policies.models import Policy
from app.prompts.models import Candidate, Prompt
from app.settings import CHECKOUT
from app.training.models import Run
from demo import stories
from simulation.preference import SimulatedRater, liveliness
from simulation.served import free_port, wait_until_ready

NOISE = 0.15
# Eight candidates a prompt: more pairs from each story that is written than with four.
PROMPTS = 640
CANDIDATES = 8
HELD_OUT = 80
SIZES = {"batch-size": 4, "max-length": 256}


@pytest.fixture(scope="session")
def story_teller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's own model, made as the demo makes it."""
    folder = tmp_path_factory.mktemp("models") / "story-teller"
    command = [sys.executable, "-m", "demo", "--out", str(folder)]
    command += ["--steps", "500", "--threads", "1"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@dataclass
class House:
    """The running parts."""

    address: str
    environment: dict[str, str]
    database_url: str

    def cli(self, *words: str, stdin: str | None = None) -> dict[str, Any]:
        """A `plackett` command with --json; what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "app", *words, "--json"],
            cwd=CHECKOUT,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def token(self, email: str, role: str) -> str:
        """A new person's API token."""
        self.cli("user", "create", email, "--role", role)
        return str(self.cli("token", "create", email)["token"])


@pytest.fixture
def house(fresh_database: str, tmp_path: Path) -> Iterator[House]:
    """Web application and worker as processes of their own."""
    port = free_port()
    environment = {
        **os.environ,  # with one computing thread a process: the other core has tests to run
        "DATABASE_URL": fresh_database,
        "PLACKETT_DATA_DIR": str(tmp_path),
        "PLACKETT_TRAINER_DEVICE": "cpu",
        "PLACKETT_GENERATION_BATCH": "16",
    }
    log = tmp_path / "processes.log"
    with log.open("ab") as output:
        parts = [
            subprocess.Popen(
                [sys.executable, "-m", "app", *words],
                cwd=CHECKOUT,
                env=environment,
                stdout=output,
                stderr=output,
            )
            for words in (["serve", "--port", str(port)], ["worker"])
        ]
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_ready(address, log)
        yield House(address, environment, fresh_database)
    finally:
        for part in parts:
            part.terminate()
        for part in parts:
            part.wait(timeout=60)


async def until(what: Callable[[], Any], *, seconds: float) -> Any:
    """Ask until the answer is true; the answer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = what()
        if answer:
            return answer
        await asyncio.sleep(0.5)
    raise AssertionError(f"it did not come true in {seconds} s")


@pytest.fixture
async def researcher(house: House) -> AsyncIterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {house.token('rita@example.org', 'researcher')}"}
    with httpx.Client(base_url=house.address, headers=headers, timeout=60) as client:
        yield client


async def run(client: httpx.Client, stage: str, **config: Any) -> dict[str, Any]:
    """Start a training run and follow it to its end."""
    body = {"stage": stage, "config": config}
    started = client.post("/api/v1/projects/loop/runs", json=body)
    assert started.status_code == 202, started.text
    address = f"/api/v1/runs/{started.json()['id']}"

    def ended() -> Any:
        found = client.get(address).json()
        return found if found["state"] not in ("queued", "running") else None

    result = await until(ended, seconds=900)
    assert result["state"] == "succeeded", result["error"]
    metrics = client.get(f"{address}/metrics").json()
    assert [row["step"] for row in metrics] == list(range(1, result["total_steps"] + 1))
    return dict(result)


def count_marks(text: str) -> int:
    """The wrong trait: it goes with liveliness, and with length."""
    return text.count("!")


def count_sentences(text: str) -> int:
    """Ends of sentences, as liveliness counts them."""
    return sum(text.count(mark) for mark in "!.?")


def oppose_traits(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the comparisons those of the livelier story with one that has more exclamation marks."""
    found = {}
    for pair in pairs:
        texts = [pair[side][0]["content"] for side in ("chosen", "rejected")]
        livelier, other = sorted(texts, key=liveliness, reverse=True)
        if liveliness(livelier) > liveliness(other) and count_marks(livelier) < count_marks(other):
            row = {"prompt": pair["prompt"], "chosen": livelier, "rejected": other}
            found[json.dumps(row)] = row
    return list(found.values())


def evaluate(house: House, model: Path, rows: list[dict[str, Any]], file: Path) -> dict[str, Any]:
    """The figures of a reward model on comparisons."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["evaluate", "--reward", str(model), "--data", str(file), "--max-length", "256"]
    done = subprocess.run(
        [sys.executable, "-m", "trainer", *words, "--device", "cpu"],
        cwd=CHECKOUT, env=house.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


async def folder_of(house: House, run: dict[str, Any]) -> Path:
    """A run's directory on this machine."""
    async with open_sessions(house.database_url) as sessions, sessions() as session:
        found = await session.get_one(Run, uuid.UUID(run["id"]))
        return Path(str(found.path))


def prefer(pair: dict[str, Any]) -> float:
    """How right the noise-free taste is about a noisy comparison: 1, 0, or half where it sees none."""
    chosen, rejected = (liveliness(pair[side][0]["content"]) for side in ("chosen", "rejected"))
    return 0.5 if chosen == rejected else float(chosen > rejected)


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_the_loop_turns_once(
    house: House, researcher: httpx.Client, story_teller: Path, tmp_path: Path
) -> None:
    told = stories.generate(11, 5 * (PROMPTS + HELD_OUT), held_out=True)
    prompts = list(dict.fromkeys(each.prompt for each in told))[: PROMPTS + HELD_OUT]
    house.cli(
        *("policy", "add", "story-teller", "--backend", "transformers"),
        *("--model", str(story_teller / "model")),
    )
    admin = {"Authorization": f"Bearer {house.token('ada@example.org', 'admin')}"}
    project = {
        "slug": "loop",
        "name": "The loop",
        "candidates_per_task": CANDIDATES,
        "policies": ["story-teller"],
        "sampling": {"max_new_tokens": 110},
    }
    with httpx.Client(base_url=house.address, headers=admin, timeout=60) as client:
        assert client.post("/api/v1/projects", json=project).status_code == 201
        rows: list[dict[str, Any]] = [{"prompt": text} for text in prompts[:PROMPTS]]
        report = client.post("/api/v1/projects/loop/prompts", json=rows)
        assert report.json()["accepted"] == PROMPTS

        def progress() -> dict[str, int]:
            return dict(client.get("/api/v1/projects/loop/progress").json())

        await until(lambda: progress()["generated"] == PROMPTS, seconds=600)
        with httpx.Client(base_url=house.address, timeout=60) as connection:
            rater = SimulatedRater(
                connection, house.token("rob@example.org", "rater"), liveliness, NOISE, seed=5
            )
            while rater.rate_next("loop"):
                pass
        assert rater.rated == progress()["rated"] == PROMPTS

        split = {"train": 0.75, "validation": 0.05, "test": 0.2}
        made = researcher.post(
            "/api/v1/projects/loop/exports", json={"name": "first", "split": split}
        )
        export = f"/api/v1/exports/{made.json()['id']}"
        await until(lambda: researcher.get(export).json()["state"] == "ready", seconds=60)
        lines = researcher.get(f"{export}/files/comparisons.test.jsonl").text.splitlines()
        pairs = [json.loads(line) for line in lines]
        best_possible = sum(map(prefer, pairs)) / len(pairs)

        reward = await run(researcher, "reward", epochs=2, lr=1e-3, **SIZES)
        accuracy = reward["result"]["test"]["accuracy"]
        assert reward["result"]["test"]["pairs"] == len(pairs)
        # Two standard errors of the difference beyond the five points: a fault, not the draw.
        allowed = 0.05 + 2 * (0.12 / len(pairs)) ** 0.5
        assert accuracy >= best_possible - allowed, (accuracy, best_possible)
        opposed = oppose_traits(pairs)
        assert len(opposed) >= 40, "too few pairs to tell the two traits apart"
        folder = await folder_of(house, reward)
        taste = evaluate(house, folder / "model", opposed, tmp_path / "opposed.jsonl")
        # Usually 0.78. Where the rater counts the marks it is 0.02, and all else here passes.
        assert taste["accuracy"] >= 0.6, taste

        ppo = await run(
            researcher,
            "ppo",
            steps=12,
            # The price was found for rewards as they are.
            **{
                "max-length": 256,
                "response-length": 110,
                "kl-coef": 0.1,
                "normalise-rewards": False,
            },
        )
        kl = ppo["result"]["held_out"]["kl"]
        assert 0 < kl < 15  # usually 3 to 7
        policies = {each["id"]: each for each in researcher.get("/api/v1/policies").json()}
        better = policies[ppo["policy_id"]]["name"]

        # Prompts that nobody has seen: one answer of each policy, then the project's own next ones.
        rows = [{"prompt": text} for text in prompts[PROMPTS:]]
        both: dict[str, int | list[str]] = {"generate": 2, "policy": ["story-teller", better]}
        client.post("/api/v1/projects/loop/prompts", json=rows, params=both)
        client.post("/api/v1/projects/loop/prompts", json=[{"id": "own", "prompt": prompts[0]}])
        await until(lambda: progress()["generated"] == PROMPTS + HELD_OUT + 1, seconds=300)

    async with open_sessions(house.database_url) as sessions, sessions() as session:
        found = await session.execute(
            select(Prompt.id, Prompt.external_id, Candidate.text, Policy.name)
            .join(Candidate, Candidate.prompt_id == Prompt.id)
            .join(Policy, Policy.id == Candidate.policy_id)
        )
        answers: dict[Any, dict[str, str]] = {}
        own = set()
        for prompt_id, external_id, text, name in found:
            if external_id == "own":
                own.add(name)
            else:
                answers.setdefault(prompt_id, {})[name] = text
    # The worker generates with the updated policy and the one that it came from.
    assert own == {better, "story-teller"}
    duels = [each for each in answers.values() if len(each) == 2]
    assert len(duels) == HELD_OUT
    new, old = ([each[name] for each in duels] for name in (better, "story-teller"))
    wins = sum(
        0.5 if liveliness(one) == liveliness(other) else float(liveliness(one) > liveliness(other))
        for one, other in zip(new, old, strict=True)
    )
    win_rate = wins / HELD_OUT
    longer = sum(map(count_sentences, new)) / sum(map(count_sentences, old))
    print(
        f"reward accuracy {accuracy:.3f} (best possible {best_possible:.3f}), "
        f"against the wrong trait {taste['accuracy']:.3f} of {len(opposed)}; "
        f"win rate {win_rate:.3f} at KL {kl:.1f} nats, {longer:.2f} times the sentences"
    )
    assert win_rate >= 0.85  # usually 0.95 and more
    # Usually 0.74: the policy turns full stops into its marks. More sentences would mean that it writes for
    # their number; where the rater counts them it is 1.00.
    assert longer <= 1.05
