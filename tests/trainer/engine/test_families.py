"""What is computed cleverly equals what transformers computes plainly, for every family; or it is left."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.conftest import make_tokenizer
from tests.trainer.families import CONFIGS, make_policy
from trainer.__main__ import main
from trainer.engine.capabilities import can_pack, probe_capabilities, windows_of
from trainer.engine.models import checkpoint_activations, without_dropout
from trainer.engine.responses import response_sums
from trainer.engine.shared_prefix import build_batch, build_packed_batch

FAMILIES = pytest.mark.parametrize("family", CONFIGS)
# A prompt and candidates longer than the families' windows of 48.
SIZES = (70, 23, 31, 17, 29)


def draw(sizes: tuple[int, ...], seed: int = 5) -> list[list[int]]:
    stream = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 64, (size,), generator=stream).tolist() for size in sizes]


def plain_logprobs(model: Any, prompt: list[int], response: list[int]) -> float:
    """By transformers alone: one row, no mask, no positions."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0].log_softmax(-1)
    first = len(prompt)
    return sum(float(logits[first + n - 1, token]) for n, token in enumerate(response))


@FAMILIES
def test_candidates_have_the_logprobs_that_plain_transformers_gives_them(family: str) -> None:
    model = probe_capabilities(without_dropout(make_policy(family)))
    for sizes in (SIZES, (5, 3, 4), (150, 60, 70)):
        prompt, *responses = draw(sizes)
        with torch.no_grad():
            sums, _ = response_sums(model, build_batch([(prompt, responses)], model, 0))
        expected = [plain_logprobs(model, prompt, each) for each in responses]
        torch.testing.assert_close(sums, torch.tensor(expected), atol=2e-3, rtol=1e-5)


@FAMILIES
def test_packed_documents_are_blind_to_each_other_or_packing_is_refused(family: str) -> None:
    model = probe_capabilities(without_dropout(make_policy(family)))
    packs = can_pack(model, 256)
    documents = [([each[0]], [each[1:]]) for each in draw((40, 55, 30))]
    batch = build_packed_batch([documents], torch.device("cpu"), 0)
    with torch.no_grad():
        sums, _ = response_sums(model, batch)
    expected = torch.tensor([plain_logprobs(model, prompt, each) for prompt, (each,) in documents])
    same = torch.allclose(sums, expected, atol=2e-3)
    assert packs == same


def test_some_families_share_and_pack_and_some_do_not() -> None:
    """The tests above would pass where nothing is ever shared or packed."""
    llama = probe_capabilities(without_dropout(make_policy("Llama")))
    assert llama.reads_shared_prefix
    assert can_pack(llama, 256)
    mamba = probe_capabilities(without_dropout(make_policy("Mamba")))
    assert not mamba.reads_shared_prefix
    assert not can_pack(mamba, 256)


def test_windows_are_found_by_any_name() -> None:
    assert windows_of(make_policy("GPTNeo")) == [48]
    assert windows_of(make_policy("Mistral")) == [48]
    assert windows_of(make_policy("Llama")) == []


@FAMILIES
def test_checkpointed_activations_bring_no_dropout_back(family: str) -> None:
    model = without_dropout(make_policy(family))
    prompt, response = draw((20, 12))
    expected = plain_logprobs(model, prompt, response)
    if not model.supports_gradient_checkpointing:
        pytest.skip("the family has no checkpoints")
    checkpoint_activations(model)
    assert any(module.training for module in model.modules()), "the checkpoints are on"
    for _ in range(3):
        sums, _ = response_sums(probe_free(model), build_batch([(prompt, [response])], model, 0))
        assert sums.item() == pytest.approx(expected, abs=2e-3)
    sums.sum().backward()
    assert all(
        each.grad is not None
        for each in model.parameters()
        if each.requires_grad and each.dim() > 1
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", ["OPT", "GPTBigCode", "Falcon"])
def test_stages_start_where_they_must_with_checkpointed_activations(
    family: str, rankings: Path, tmp_path: Path
) -> None:
    """PPO's first ratio is 1 and its first KL 0, DPO's first loss ln 2, as without checkpoints."""
    model = tmp_path / "model"
    make_policy(family).save_pretrained(model)
    make_tokenizer().save_pretrained(model)
    flags = ["--data", str(rankings), "--device", "cpu", "--batch-size", "8", "--steps", "1"]
    flags += ["--model", str(model), "--max-length", "48", "--lr", "1e-12"]
    again = ["--gradient-checkpointing"]
    assert main(["dpo", *flags, *again, "--out", str(tmp_path / "dpo")]) == 0
    assert first_figures(tmp_path / "dpo")["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert main(["reward", *flags, *again, "--out", str(tmp_path / "reward")]) == 0
    flags += ["--reward", str(tmp_path / "reward" / "model"), "--response-length", "6"]
    assert main(["ppo", *flags, *again, "--out", str(tmp_path / "ppo")]) == 0
    figures = first_figures(tmp_path / "ppo")
    assert figures["kl"] == pytest.approx(0, abs=1e-3)
    assert figures["ratio"] == pytest.approx(1, abs=1e-4)


def first_figures(folder: Path) -> dict[str, float]:
    figures: dict[str, float] = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    return figures


def test_a_model_that_computes_differently_each_time_is_refused(
    rankings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What the first step's identities are for: here a dropout that was not switched off."""
    monkeypatch.setattr("trainer.engine.models.without_dropout", lambda model: model.eval())
    monkeypatch.setattr(
        "trainer.engine.prepare.checkpoint_activations", lambda model: model.train()
    )
    model = tmp_path / "model"
    make_policy("OPT").save_pretrained(model)
    make_tokenizer().save_pretrained(model)
    flags = ["--data", str(rankings), "--device", "cpu", "--batch-size", "8", "--steps", "1"]
    out = ["--model", str(model), "--max-length", "48", "--out", str(tmp_path / "dpo")]
    assert main(["dpo", *flags, *out, "--gradient-checkpointing"]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("trainer dpo: DPO's first")
    assert "cannot be trained here" in said
    assert not (tmp_path / "dpo" / "model").exists()


def probe_free(model: Any) -> Any:
    """The model as it is before anything was tried on it."""
    model.reads_shared_prefix = model.plain_head = False
    model.last_layer = None
    return model
