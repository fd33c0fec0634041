"""A tokenizer and models small enough to train in moments, through the real transformers code."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

WORDS = (
    *("the", "a", "cat", "dog", "fox", "sat", "ran", "sang", "in", "on", "under", "tree"),
    *("hill", "sun", "moon", ".", "!", "yes", "no", "please", "tell", "me", "story"),
)


def make_tokenizer() -> Any:
    """Word level, with padding and end tokens of their own."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<assistant>", *WORDS]
    plain = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template=(
            "{{ bos_token }} {% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} "
            "{% if m['role'] == 'assistant' %}{{ eos_token }} {% endif %}{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}"
        ),
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained Llama of a few thousand parameters, saved."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def untrained_reward(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reward model with a head that was drawn, saved."""
    import torch

    from trainer.engine.models import load_reward_model
    from trainer.engine.tokens import load_tokenizer

    folder = tmp_path_factory.mktemp("untrained") / "reward"
    tokenizer = load_tokenizer(tiny_model)
    model = load_reward_model(tiny_model, tokenizer, torch.device("cpu"), seed=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def with_template(model: str, folder: Path, template: str) -> str:
    """A copy of a model's folder whose tokenizer has another chat template."""
    import shutil

    from transformers import AutoTokenizer

    shutil.copytree(model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_tiny_model(folder: Path, *, width: int = 32) -> str:
    """Make and save it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def rankings(tmp_path: Path) -> Path:
    """Rankings in which the more suns a response has, the better it is."""
    return write_rankings(tmp_path / "rankings.jsonl")


def write_rankings(file: Path, *, prompts: int = 120) -> Path:
    """Write them."""
    import random

    source = random.Random(3)
    with file.open("w") as lines:
        for number in range(prompts):
            texts = [
                " ".join(source.choice(("sun", "moon", "cat", "tree")) for _ in range(5))
                for _ in range(4)
            ]
            counts = [text.count("sun") for text in texts]
            used = sorted(set(counts), reverse=True)
            row = {
                "prompt_id": str(number),
                "messages": [{"role": "user", "content": f"tell me story {WORDS[number % 16]}"}],
                "candidates": [
                    {"id": str(i), "text": text, "policy": None} for i, text in enumerate(texts)
                ],
                "rankings": [
                    {
                        "rater": "r",
                        "ranks": {str(i): used.index(c) + 1 for i, c in enumerate(counts)},
                        "weight": 1.0,
                    }
                ],
            }
            lines.write(json.dumps(row) + "\n")
    return file


@pytest.fixture(scope="module")
def module_patch() -> Iterator[pytest.MonkeyPatch]:
    """What a module's tests replace all through."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch
