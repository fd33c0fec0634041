"""Rollouts by a server, over real HTTP.

No vLLM can be had here: a small server stands in for it, that speaks the three calls of its API that are
used (completions with token ids, loading and unloading of adapters) with a real model and peft's own
loading of the adapters. What it cannot show is vLLM itself.
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.processes import group_of
from trainer import ppo, reward
from trainer.engine import models, tokens
from trainer.engine.distributed import Processes
from trainer.errors import TrainerError, UsageError
from trainer.settings.ppo import PPOConfig
from trainer.settings.reward import RewardConfig

ALONE = Processes(torch.device("cpu"))
PROMPTS = [
    [{"role": "user", "content": f"tell me story {word}"}] for word in ["cat", "dog", "fox", "sun"]
]


class StandIn(ThreadingHTTPServer):
    """What a vLLM with a model and adapters would answer."""

    def __init__(self, model: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.path, self.adapters, self.seen = model, dict[str, Any](), list[dict[str, Any]]()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def load(self, name: str, place: str) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(self.path, dtype=torch.float32)
        self.adapters[name] = PeftModel.from_pretrained(base, place).eval()

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body["top_k"] == -1
        assert body["top_p"] == 1.0
        model = self.adapters[body["model"]]
        stream = torch.Generator().manual_seed(body["seed"])
        ids, said = list(body["prompt"]), list[int]()
        with torch.no_grad():
            while len(said) < body["max_tokens"] and said[-1:] != [2]:
                logits = model(input_ids=torch.tensor([ids + said])).logits[0, -1]
                chances = (logits / body["temperature"]).softmax(-1)
                said.append(int(torch.multinomial(chances, 1, generator=stream)))
        reason = "stop" if said[-1] == 2 else "length"
        return {"choices": [{"token_ids": said, "finish_reason": reason, "text": ""}]}


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        found: Any = {}
        with self.server.lock:
            self.server.seen.append({"path": self.path, **body})
            if self.path == "/v1/load_lora_adapter":
                if body["lora_name"] in self.server.adapters:
                    self.send_error(400, "it has been loaded already")
                    return
                self.server.load(body["lora_name"], body["lora_path"])
            elif self.path == "/v1/unload_lora_adapter":
                del self.server.adapters[body["lora_name"]]
            elif body["model"] in self.server.adapters:
                found = self.server.complete(body)
            else:
                self.send_error(404, "no such model")
                return
        text = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tiny_model: str) -> Iterator[StandIn]:
    found = StandIn(tiny_model)
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.fixture
def scorer(tiny_model: str, rankings: Path, tmp_path: Path) -> str:
    reward.main(
        RewardConfig(
            data=str(rankings), model=tiny_model, out=str(tmp_path / "scorer"), steps=6, lr=3e-3,
            batch_size=8, max_length=64, device="cpu",
        )
    )  # fmt: skip
    return str(tmp_path / "scorer" / "model")


def config(model: str, data: Path, scorer: str, out: Path, url: str, **more: Any) -> PPOConfig:
    wanted: dict[str, Any] = {
        "data": str(data), "model": model, "reward": scorer, "out": str(out), "lr": 1e-3, "steps": 3,
        "batch_size": 8, "response_length": 8, "max_length": 32, "device": "cpu", "lora_rank": 4,
        "rollout_server": url,
    }  # fmt: skip
    return PPOConfig(**(wanted | more))


def test_the_server_speaks_with_the_policy_as_it_is_after_every_update(
    tiny_model: str, rankings: Path, scorer: str, tmp_path: Path, server: StandIn
) -> None:
    wanted = config(tiny_model, rankings, scorer, tmp_path / "run", server.url, lr=0.05)
    trainer = ppo.PPOTrainer(wanted, ALONE)
    first = trainer.update(PROMPTS * 2, 1, 3)
    assert first["kl"] == 0
    second = trainer.update(PROMPTS * 2, 2, 3)
    assert second["kl"] != 0
    rollout = trainer.roll_out(PROMPTS * 2, trainer.stream)
    (served,) = server.adapters.values()  # those before were forgotten
    prompt = trainer.encoder.prompt(PROMPTS[0], trainer.max_prompt_tokens)
    assert rollout.ids[0][rollout.mask[0].bool()].tolist()[: len(prompt)] == prompt
    with torch.no_grad():
        there = served(input_ids=torch.tensor([prompt])).logits
        here = trainer.policy(input_ids=torch.tensor([prompt])).logits
    assert torch.allclose(there, here, atol=1e-5)
    asked = [each for each in server.seen if each["path"] == "/v1/completions"]
    assert len(asked) == 24
    assert len({each["seed"] for each in asked}) == 24
    ended = rollout.ended.tolist()
    lasts = [
        row[mask.bool()].tolist()[-1]
        for row, mask in zip(rollout.response, rollout.response_mask, strict=True)
    ]
    assert ended == [last == 2 for last in lasts]


def test_a_whole_run_by_a_server_ends_with_a_model(
    tiny_model: str, rankings: Path, scorer: str, tmp_path: Path, server: StandIn
) -> None:
    out = tmp_path / "run"
    result = ppo.main(config(tiny_model, rankings, scorer, out, server.url + "/v1", steps=2))
    assert result["episodes"] == 16
    models.load_policy(str(out / "model"), tokens.load_tokenizer(tiny_model), torch.device("cpu"))


def test_runs_of_one_name_share_a_server_and_leave_nothing_on_it(
    tiny_model: str, rankings: Path, scorer: str, tmp_path: Path, server: StandIn
) -> None:
    first, second = (
        config(tiny_model, rankings, scorer, tmp_path / folder / "run", server.url, steps=1)
        for folder in ("one", "other")
    )
    ppo.PPOTrainer(first, ALONE).update(PROMPTS * 2, 1, 3)  # and then it was stopped
    before = [*server.adapters]
    ppo.main(second)
    assert [*server.adapters] == before
    assert not (tmp_path / "other" / "run" / "served").exists()


@pytest.mark.slow
def test_of_two_processes_one_publishes_and_both_ask(
    tiny_model: str, rankings: Path, scorer: str, tmp_path: Path, server: StandIn
) -> None:
    words = ["ppo", "--data", str(rankings), "--model", tiny_model, "--reward", scorer]
    words += ["--steps", "2", "--batch-size", "4", "--response-length", "4", "--max-length", "32"]
    words += ["--lora-rank", "2", "--rollout-server", server.url, "--device", "cpu"]
    with group_of(2) as group:
        for reply in group.run([*words, "--out", str(tmp_path / "two")]):
            assert reply.code == 0, reply.err[-3000:]
    asked = [each for each in server.seen if each["path"] == "/v1/completions"]
    loaded = [each for each in server.seen if each["path"] == "/v1/load_lora_adapter"]
    assert len(loaded) == 4  # before and after, and twice between
    assert len({each["lora_name"] for each in loaded}) == 4
    # Every response was asked for once, though two processes asked.
    assert len({each["seed"] for each in asked}) == len(asked) - held_out(tmp_path / "two")
    assert not server.adapters


def held_out(run: Path) -> int:
    """How many prompts a run never trained on; it answers them before and after with the same draws."""
    found: int = json.loads((run / "result.json").read_text())["held_out"]["prompts"]
    return found


def test_a_server_that_is_not_there_is_told_by_its_address(
    tiny_model: str, rankings: Path, scorer: str, tmp_path: Path
) -> None:
    wanted = config(tiny_model, rankings, scorer, tmp_path / "run", "http://127.0.0.1:9")
    with pytest.raises(TrainerError, match=r"127\.0\.0\.1:9/v1/load_lora_adapter"):
        ppo.PPOTrainer(wanted, ALONE).update(PROMPTS * 2, 1, 3)


def test_only_adapters_can_be_given_to_a_server(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--rollout-server needs --lora-rank"):
        config("m", tmp_path, "r", tmp_path, "http://x", lora_rank=0)
