"""A local model that cannot be sampled is a reason for each request, and never an empty candidate."""

from pathlib import Path

import torch
import transformers

from app.generation.backends.base import GenerationError, Request
from app.generation.backends.local import LocalBackend
from tests.trainer.conftest import make_tiny_model, make_tokenizer
from tests.trainer.families import make_policy


async def reasons(folder: Path, temperature: float) -> list[str]:
    messages = [{"role": "user", "content": "tell me story"}]
    requests = [
        Request(messages, temperature=temperature, top_p=0.9, max_new_tokens=4, seed=seed)
        for seed in (1, 2)
    ]
    outcomes = await LocalBackend(str(folder)).generate(requests)
    assert all(isinstance(each, GenerationError) for each in outcomes)
    return [str(each) for each in outcomes]


async def test_a_model_whose_logits_are_no_numbers_writes_no_candidate(tmp_path: Path) -> None:
    make_tiny_model(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    model.save_pretrained(tmp_path)
    for temperature in (0.0, 1.0):
        for reason in await reasons(tmp_path, temperature):
            assert reason.endswith("failed: its logits are no numbers")


async def test_a_model_without_a_cache_that_can_be_padded_is_refused(tmp_path: Path) -> None:
    make_policy("Mamba").save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    for reason in await reasons(tmp_path, 1.0):
        assert "keeps no cache of keys and values" in reason
