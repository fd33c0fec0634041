"""Every token that ends a turn stops a response, here and wherever the model is saved to."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from app.generation.backends.local import LoadedModel
from tests.trainer.conftest import make_tiny_model, make_tokenizer
from trainer.__main__ import main
from trainer.engine.distributed import Processes
from trainer.engine.models import ends_of, load_policy, load_reward_model
from trainer.engine.templates import PLAIN_TEMPLATE, end_of_turn
from trainer.engine.tokens import Encoder, load_tokenizer
from trainer.rl.rewards import RewardReader
from trainer.rl.rollout import Row, decode, from_rows, rows_of, sample
from trainer.settings.ppo import PPOConfig

CPU = torch.device("cpu")
CHATML = (
    "{% for m in messages %}<start> {{ m['role'] }} {{ m['content'] }} <turn> \n{% endfor %}"
    "{% if add_generation_prompt %}<start> assistant {% endif %}"
)


def make_chat_tokenizer(template: str = CHATML) -> Any:
    """Its turns end in another token than it does itself."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<start>", "<turn>", "<call>"]})
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture
def chat_model(tmp_path: Path) -> Path:
    """An untrained model whose generation settings name two ends, and whose template has a third."""
    folder = tmp_path / "chat"
    make_tiny_model(folder)
    tokenizer = make_chat_tokenizer()
    tokenizer.save_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    ends = {"eos_token_id": [2, tokenizer.convert_tokens_to_ids("<call>")]}
    (folder / "generation_config.json").write_text(json.dumps(ends))
    return folder


def ids(*names: str) -> list[int]:
    found: list[int] = make_chat_tokenizer().convert_tokens_to_ids([*names])
    return sorted(found)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHATML, "<turn>"),
        (PLAIN_TEMPLATE, "<eos>"),
        # Two ends at the end of a conversation: the first is the turn's.
        ("{% for m in messages %}{{ m['content'] | trim }}<turn>\n{% endfor %}<eos>", "<turn>"),
        # Turns that end in plain text, and templates that refuse, or drop, what is asked of them.
        ("{% for m in messages %}{{ m['content'] }}\n\n{% endfor %}", "<eos>"),
        ("{{ raise_exception('no') }}", "<eos>"),
        ("<turn>", "<eos>"),
    ],
)
def test_the_end_of_a_turn_is_the_templates(template: str, end: str) -> None:
    tokenizer = make_chat_tokenizer(template)
    (expected,) = ids(end)
    assert end_of_turn(tokenizer) == expected
    if "raise_exception" not in template:
        _, response = Encoder(tokenizer, 64).pair([{"role": "user", "content": "tell me"}], "yes")
        assert response[-1] == expected


def test_every_end_stops_a_response(chat_model: Path) -> None:
    tokenizer = load_tokenizer(str(chat_model))
    policy = load_policy(str(chat_model), tokenizer, CPU)
    ends = ids("<eos>", "<turn>", "<call>")
    assert ends_of(policy) == ends
    stream = torch.Generator().manual_seed(0)
    rollout = sample(
        policy, [[1, 4, 8, 5]] * 300, length=12, temperature=1.0, end=ends, pad=0, stream=stream
    )
    lasts = set()
    for _, response, ended in rows_of(rollout):
        assert not set(response[:-1]) & set(ends)
        assert ended == (response[-1] in ends)
        assert ended or len(response) == 12
        lasts |= {response[-1]} if ended else set()
    assert lasts == set(ends)
    assert not any("turn" in text or "call" in text for text in decode(tokenizer, rollout))


def test_a_default_that_is_a_word_of_the_tokenizer_is_no_end(tmp_path: Path) -> None:
    """A configuration that nobody gave an end has its family's default."""
    folder = tmp_path / "model"
    make_tiny_model(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.config.eos_token_id = 9
    model.generation_config = transformers.GenerationConfig.from_model_config(model.config)
    model.save_pretrained(folder)
    policy = load_policy(str(folder), load_tokenizer(str(folder)), CPU)
    assert ends_of(policy) == [2]


def test_saved_policies_stop_at_every_end_in_plain_generate(
    chat_model: Path, tmp_path: Path
) -> None:
    data = tmp_path / "demonstrations.train.jsonl"
    turns = [{"role": "user", "content": "tell me"}, {"role": "assistant", "content": "the sun"}]
    data.write_text((json.dumps({"messages": turns}) + "\n") * 4)
    out = tmp_path / "sft"
    flags = ["--model", str(chat_model), "--data", str(data), "--device", "cpu"]
    flags += ["--steps", "1", "--batch-size", "2", "--lr", "1e-6", "--out", str(out)]
    assert main(["sft", *flags]) == 0
    ends = ids("<eos>", "<turn>", "<call>")
    saved = json.loads((out / "model" / "generation_config.json").read_text())
    assert saved["eos_token_id"] == ends
    model = transformers.AutoModelForCausalLM.from_pretrained(out / "model")
    torch.manual_seed(1)
    prompts = torch.tensor([[1, 4, 8, 5]] * 200)
    written = model.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=12, do_sample=True, top_k=0
    )[:, 4:]
    stopped = set()
    for row in written.tolist():
        first = next((index for index, token in enumerate(row) if token in ends), len(row) - 1)
        assert not any(row[first + 1 :]), "padding alone follows an end"
        stopped |= {row[first]} & set(ends)
    assert stopped == set(ends)
    assert LoadedModel(str(chat_model)).end_ids == set(ends)


def test_a_reward_model_reads_every_response_with_its_own_end(chat_model: Path) -> None:
    """It was trained on the template's end alone: whichever end was drawn, or none, it reads that one."""
    tokenizer = load_tokenizer(str(chat_model))
    reward = chat_model.with_name("reward")
    load_reward_model(str(chat_model), tokenizer, CPU, seed=0).save_pretrained(reward)
    tokenizer.save_pretrained(reward)
    config = PPOConfig(data="", model="", out="", reward="r", max_length=64, response_length=8)
    reader = RewardReader(str(reward), config, tokenizer, Processes(CPU))
    assert reader.same_tokens
    rows: list[Row] = [
        ([1, 4, 8], [7, 9, *end], bool(end)) for end in (ids("<turn>"), ids("<eos>"), [])
    ]
    prompts = [[{"role": "user", "content": "tell me"}]] * 3
    scores = reader.score(prompts, from_rows(rows, 0, CPU), tokenizer, 8)
    torch.testing.assert_close(scores, scores[:1].expand(3))
