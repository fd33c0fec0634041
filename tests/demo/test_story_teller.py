"""The demo's story-teller: from nothing to legible stories, whole or not at all, and repeatable."""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo import network, stories, story_teller, training
from demo import tokenizer as teller_tokenizer
from demo.settings import StoryTellerConfig
from demo.training import Schedule
from trainer.engine.models import hash_state
from trainer.errors import TrainerError, UsageError

CHECKOUT = Path(__file__).parents[2]
TYPED = (
    "Tell me a story about a xylophone-playing axolotl named Zoë!",
    "Расскажи сказку про лису 🦊",
    "狐の物語を聞かせて",
    "",
    "   spaces\n\tand\r\nlines  ",
    "\x00\x07 control",
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return teller_tokenizer.make_tokenizer(stories.generate(0, 1_000), 1_200)


@pytest.fixture(scope="module")
def teller(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A fifth of the demo's training: about a quarter of a minute on two quiet cores."""
    folder = tmp_path_factory.mktemp("tiny") / "story-teller"
    config = StoryTellerConfig(
        out=str(folder), steps=150, corpus=4_000, prompts=60, demonstrations=5
    )
    return folder, story_teller.make_story_teller(config)


# --- tokenizer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TYPED)
def test_whatever_is_typed_comes_back_unchanged(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_a_story_comes_back_with_its_spaces_capitals_and_quotes(tokenizer: Any) -> None:
    for each in stories.generate(5, 200):
        ids = tokenizer(each.response, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == each.response


def test_beginning_end_and_padding_are_three_tokens(tokenizer: Any) -> None:
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert len(special) == 3 and None not in special


def test_a_saved_tokenizer_is_the_same_when_loaded(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "A story about a fox, please."}]
    asked = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert dict(loaded.apply_chat_template(messages, **asked)) == dict(
        tokenizer.apply_chat_template(messages, **asked)
    )


def test_the_template_opens_the_assistants_turn_and_ends_it_with_the_end_token(
    tokenizer: Any,
) -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "A story?"}]
    asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert asked == "<|bos|><|system|>Be kind.<|user|>A story?<|assistant|>"
    messages += [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": "More"}]
    longer = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert longer == f"{asked}Yes.<|end|><|user|>More<|assistant|>"


def test_rows_are_what_the_chat_template_gives_and_only_answers_are_learned(
    tokenizer: Any,
) -> None:
    dialogues = teller_tokenizer.conversations(stories.generate(2, 60), random.Random(0))
    assert {len(messages) for messages in dialogues} == {2, 3, 4}
    for messages, row in zip(dialogues, teller_tokenizer.encode(tokenizer, dialogues), strict=True):
        whole = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)
        assert row.ids == whole["input_ids"]
        learned = [token for token, kept in zip(row.ids, row.learned, strict=True) if kept]
        answers = [each["content"] for each in messages if each["role"] == "assistant"]
        assert tokenizer.decode(learned) == "".join(f"{answer}<|end|>" for answer in answers)


# --- model and training -------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_learned_tokens_whatever_the_padding(tokenizer: Any) -> None:
    torch.manual_seed(0)
    config = StoryTellerConfig(out="unused", width=32, heads=2)
    model = network.make_model(config, tokenizer).eval()
    rows = teller_tokenizer.encode(
        tokenizer, [teller_tokenizer.as_messages(each) for each in stories.generate(1, 3)]
    )
    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            logprobs = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
            for place in range(1, len(row.ids)):
                if row.learned[place]:
                    total -= logprobs[place - 1, row.ids[place]].item()
                    count += 1
        assert network.loss_of(model, rows).item() == pytest.approx(total / count, abs=1e-5)
    assert network.evaluate(model, rows, batch_size=2) == pytest.approx(total / count, abs=1e-5)


def test_sharpening_multiplies_every_logit(tokenizer: Any) -> None:
    model = network.make_model(StoryTellerConfig(out="unused", width=32, heads=2), tokenizer).eval()
    ids = torch.tensor([[1, 4, 300, 5]])
    with torch.no_grad():
        before = model(ids).logits
        network.sharpen(model, 1.15)
        torch.testing.assert_close(model(ids).logits, before * 1.15)


def test_a_fixed_schedule_warms_up_stays_and_falls_to_nothing() -> None:
    schedule = Schedule(100)
    shares = [schedule.share(step) for step in range(1, 101)]
    assert shares[0] == pytest.approx(1 / 20)
    assert shares[19:50] == [1.0] * 31
    assert shares[50] == 1.0 and shares[75] == pytest.approx(0.5)
    assert shares[99] == pytest.approx(1 / 50)


def test_half_way_through_the_time_as_many_steps_again_are_planned() -> None:
    schedule = Schedule(None)
    schedule.plan(149, spent=29.9, budget=60.0)
    assert schedule.total is None and schedule.share(150) == 1.0
    schedule.plan(150, spent=30.1, budget=60.0)
    assert schedule.total == 300
    fixed = Schedule(300)
    assert [schedule.share(step) for step in range(150, 301)] == [
        fixed.share(step) for step in range(150, 301)
    ]


def test_a_machine_that_grows_busy_cuts_the_rest_short_without_a_jump() -> None:
    schedule = Schedule(None)
    schedule.plan(150, spent=30.0, budget=60.0)
    before = schedule.share(200)
    schedule.plan(200, spent=50.0, budget=60.0)
    # A quarter of a second a step: 16 s of patience are left for 64 more.
    assert schedule.cut and schedule.total == 264
    shares = [before, *(schedule.share(step) for step in range(201, 265))]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] - shares[1] < 0.02 and 0 < shares[-1] < 0.02


@pytest.mark.slow
def test_the_same_seed_and_steps_give_the_same_weights(tmp_path: Path) -> None:
    hashes = []
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        config = StoryTellerConfig(
            out=str(tmp_path / name), steps=3, corpus=200, prompts=2, seed=seed, threads=1
        )
        story_teller.make_story_teller(config)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name / "model")
        hashes.append(hash_state(model.state_dict()))
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.slow
def test_time_alone_decides_when_no_steps_are_given(tmp_path: Path) -> None:
    config = StoryTellerConfig(
        out=str(tmp_path / "teller"), seconds=9, corpus=300, prompts=2, width=48
    )
    started = time.perf_counter()
    info = story_teller.make_story_teller(config)
    assert time.perf_counter() - started < 20
    assert info["steps"] > training.WARMUP_STEPS


# --- what is left on disk -----------------------------------------------------------------------------


def test_a_directory_that_is_there_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is there already"):
        story_teller.make_story_teller(StoryTellerConfig(out=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_training_that_diverges_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    config = StoryTellerConfig(out=str(tmp_path / "teller"), steps=3, corpus=100, lr=float("inf"))
    with pytest.raises(TrainerError, match="did not learn"):
        story_teller.make_story_teller(config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_kill_leaves_no_half_model_and_the_next_start_makes_a_whole_one(tmp_path: Path) -> None:
    folder = tmp_path / "teller"
    command = [sys.executable, "-m", "demo", "--out", str(folder), "--corpus", "200"]
    process = subprocess.Popen(
        [*command, "--steps", "100000", "--threads", "1"], cwd=CHECKOUT, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        assert list(tmp_path.iterdir()), "training never began"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not folder.exists()
    done = subprocess.run(
        [*command, "--steps", "2", "--prompts", "3"], cwd=CHECKOUT, capture_output=True, check=True
    )
    assert json.loads(done.stdout)["steps"] == 2
    assert sorted(each.name for each in folder.iterdir()) == ["info.json", "model", "prompts.jsonl"]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"steps": 0}, "--steps"),
        ({"seconds": 0.0}, "--seconds"),
        ({"width": 100, "heads": 6}, "--width"),
        ({"vocabulary": 200}, "--vocabulary"),
        ({"corpus": 4}, "--corpus"),
        ({"threads": 0}, "--threads"),
        ({"prompts": -1}, "--prompts"),
    ],
)
def test_impossible_sizes_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        StoryTellerConfig(out="unused", **wrong)


# --- what it has learned ------------------------------------------------------------------------------


@pytest.mark.slow
def test_info_says_what_was_made(teller: tuple[Path, dict[str, Any]]) -> None:
    folder, info = teller
    assert json.loads((folder / "info.json").read_text()) == info
    assert info["version"] == story_teller.MODEL_VERSION and info["steps"] == 150
    assert info["repeatable_by_steps"] is True
    assert 900_000 < info["parameters"] < 1_500_000


@pytest.mark.slow
def test_it_learns_what_it_was_not_shown(teller: tuple[Path, dict[str, Any]]) -> None:
    # 7.2 before training; 0.4 after the demo's whole minute.
    assert teller[1]["validation_loss"] < 1.6


@pytest.mark.slow
def test_its_prompts_are_importable_distinct_and_held_out(
    teller: tuple[Path, dict[str, Any]],
) -> None:
    rows = [json.loads(line) for line in (teller[0] / "prompts.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"story-{number:04d}" for number in range(1, 61)]
    assert len({row["prompt"] for row in rows}) == 60
    assert all(stories.is_held_out(row["metadata"]) for row in rows)
    demonstrations = [
        json.loads(line) for line in (teller[0] / "demonstrations.jsonl").read_text().splitlines()
    ]
    roles = [[turn["role"] for turn in row["messages"]] for row in demonstrations]
    assert roles == [["user", "assistant"]] * 5


@pytest.mark.slow
def test_plain_sampling_writes_ended_varied_stories_in_the_corpus_words(
    teller: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = teller
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    settings = model.generation_config
    assert (settings.top_k, settings.top_p, settings.temperature) == (0, 1.0, 1.0)
    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()][:16]
    dialogues = [[{"role": "user", "content": row["prompt"]}] for row in rows for _ in range(4)]
    batch = tokenizer.apply_chat_template(
        dialogues, add_generation_prompt=True, return_dict=True, return_tensors="pt", padding=True
    )
    torch.manual_seed(0)
    with torch.no_grad():
        drawn = model.generate(**batch)[:, batch["input_ids"].shape[1] :]
    ended = [tokenizer.eos_token_id in row for row in drawn.tolist()]
    assert statistics.mean(ended) > 0.9
    texts = tokenizer.batch_decode(drawn, skip_special_tokens=True)
    known = {word for each in stories.generate(0, 4_000) for word in each.response.split()}
    words = [word for text in texts for word in text.split()]
    assert statistics.mean(word in known for word in words) > 0.9
    for first in range(0, len(texts), 4):
        assert len(set(texts[first : first + 4])) == 4
    counts = [stories.count_words(text) for text in texts]
    assert statistics.pstdev(counts) > 8


@pytest.mark.slow
@pytest.mark.parametrize("text", TYPED)
def test_any_prompt_gets_an_answer(teller: tuple[Path, dict[str, Any]], text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(teller[0] / "model")
    model = AutoModelForCausalLM.from_pretrained(teller[0] / "model").eval()
    batch = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    torch.manual_seed(0)
    drawn = model.generate(**batch, max_new_tokens=40)[0, batch["input_ids"].shape[1] :]
    assert tokenizer.decode(drawn, skip_special_tokens=True).strip()
