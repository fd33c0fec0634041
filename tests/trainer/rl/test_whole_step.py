"""Whole updates of PPO and RLOO equal a plain loop: every sampled token, every figure, every weight."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.rl.conftest import Models, keep_calls
from tests.trainer.rl.plain import Plain, PlainPPO, PlainRLOO, rows_in
from trainer.data.examples import Messages
from trainer.engine.distributed import Processes
from trainer.engine.tokens import Encoder, load_tokenizer
from trainer.errors import TrainerError
from trainer.ppo import PPOTrainer
from trainer.rl.rewards import RewardReader
from trainer.rl.rollout import Rollout, from_rows
from trainer.rl.rollout import Row as SampledRow
from trainer.rl.trainer import OnPolicyTrainer
from trainer.rloo import RLOOTrainer
from trainer.settings.ppo import PPOConfig
from trainer.settings.rloo import RLOOConfig

# By their positions: relative, learned, and none but a slope of attention that the mask decides.
FAMILIES = pytest.mark.parametrize("family", ["Llama", "GPT2", "Bloom"])
ALONE = Processes(torch.device("cpu"))
# Of several lengths and turns; the last is longer than the room for a prompt.
PROMPTS: list[Messages] = [
    [{"role": role, "content": text} for role, text in turns]
    for turns in (
        [("user", "tell me")],
        [("user", "a dog sang on the hill under the sun and the moon")],
        [("user", "story")],
        [("user", "the cat"), ("assistant", "yes please"), ("user", "tell me a story")],
        [("user", "no")],
        [("user", "the fox ran in the sun . the dog sat under a tree .")],
        [("user", "please tell")],
        [("user", "moon sun " * 12)],
    )
]
STEPS = 3  # of which two are made
LR = 3e-3
SETTINGS: dict[str, Any] = {
    "data": "unused", "out": "unused", "device": "cpu", "lr": LR, "temperature": 0.7, "seed": 1,
    "kl_coef": 0.4, "kl_target": 3.4, "kl_horizon": 60.0, "missing_eos_penalty": 1.7,
    "response_length": 7, "max_length": 27, "max_grad_norm": 4.5, "batch_size": 8, "micro_batch": 3,
}  # fmt: skip


def assert_same(found: dict[str, float], expected: dict[str, float]) -> None:
    """All figures, but for how fast they came."""
    found = {name: value for name, value in found.items() if name != "tokens_per_second"}
    assert found == {
        name: pytest.approx(value, rel=1e-4, abs=1e-4) for name, value in expected.items()
    }


def assert_same_weights(found: Any, expected: Any) -> None:
    """To a part in two hundred of how far most of them went."""
    for (name, one), other in zip(found.named_parameters(), expected.parameters(), strict=True):
        away = float((one - other).detach().abs().max())
        assert away < 5e-5, f"{name}: {away:.2g}"


def assert_evaluates(trainer: OnPolicyTrainer[Any], plain: Plain) -> None:
    """Held-out prompts are answered by a stream of their own, scored, and held against the reference."""
    found = trainer.evaluate(PROMPTS[2:7])
    rows = plain.sample(PROMPTS[2:7], torch.Generator().manual_seed(plain.config.seed + 1))
    texts = [response[: len(response) - plain.ended((_, response))] for _, response in rows]
    assert found.texts == [plain.tokenizer.decode(text, skip_special_tokens=True) for text in texts]
    assert found.rewards.tolist() == pytest.approx([plain.score(row) for row in rows], abs=1e-4)
    if plain.heldout is not None:
        assert found.heldout_rewards is not None
        wanted = [plain.read(plain.heldout, row) for row in rows]
        assert found.heldout_rewards.tolist() == pytest.approx(wanted, abs=1e-4)
    with torch.no_grad():
        gaps = [
            plain.logprobs(plain.policy, row)[0] - plain.logprobs(plain.reference, row)[0]
            for row in rows
        ]
    assert found.kl == pytest.approx(float(sum(gap.sum() for gap in gaps)) / 5, rel=1e-4)


@FAMILIES
def test_two_updates_of_ppo_are_those_of_a_plain_loop(
    models_of: Callable[[str], Models], family: str
) -> None:
    models = models_of(family)
    config = PPOConfig(
        **SETTINGS, model=models.policy, reference=models.reference,
        reward=f"{models.reward},{models.other_reward}", ensemble="uncertain",
        uncertainty_coef=0.3, heldout_reward=models.other_reward,
        minibatches=2, ppo_epochs=2, gamma=0.9, lam=0.8, clip=0.05, value_clip=0.03, value_lr=LR,
    )  # fmt: skip
    trainer, plain = PPOTrainer(config, ALONE), PlainPPO(config)
    for step in (1, 2):
        rollout, figures = step_of(trainer, step)
        rows, expected = plain.update(PROMPTS, LR * (STEPS + 1 - step) / STEPS)
        assert rows_in(rollout) == rows
        assert rollout.ended.tolist() == [plain.ended(row) for row in rows]
        assert_same(figures, expected)
        assert trainer.kl_coef == pytest.approx(plain.beta, rel=1e-6)
        assert 0 < expected["clip_share"] < 1
        assert 0 < expected["value_clip_share"] < 1
        assert 0 < expected["ended_share"] < 1
    assert_same_weights(trainer.policy, plain.policy)
    assert_same_weights(trainer.value_model, plain.value)
    assert_same_weights(trainer.reference, plain.reference)
    assert_evaluates(trainer, plain)


@FAMILIES
def test_two_updates_of_rloo_are_those_of_a_plain_loop(
    models_of: Callable[[str], Models], family: str
) -> None:
    models = models_of(family)
    config = RLOOConfig(
        **SETTINGS, model=models.policy, reference=models.reference, reward=models.reward,
        responses=4,
    )  # fmt: skip
    trainer, plain = RLOOTrainer(config, ALONE), PlainRLOO(config)
    for step in (1, 2):
        prompts = PROMPTS[step : step + 2]
        rollout, figures = step_of(trainer, step, prompts)
        rows, expected = plain.update(prompts, LR * (STEPS + 1 - step) / STEPS)
        assert rows_in(rollout) == rows
        assert_same(figures, expected)
        assert trainer.kl_coef == pytest.approx(plain.beta, rel=1e-6)
    assert_same_weights(trainer.policy, plain.policy)
    assert_evaluates(trainer, plain)


def step_of(
    trainer: OnPolicyTrainer[Any], step: int, prompts: Sequence[Messages] = PROMPTS
) -> tuple[Rollout, dict[str, float]]:
    """An update as the run makes it, and the samples that it was made from."""
    kept = keep_calls(trainer, "roll_out")
    figures = trainer.update(prompts, step, STEPS)
    return kept["roll_out"][0], figures


def test_an_update_whose_models_are_not_where_they_must_be_is_refused(
    models_of: Callable[[str], Models],
) -> None:
    """At first the policy is its reference; and before its first step, it is what was sampled from."""
    models = models_of("GPT2")
    config = PPOConfig(**SETTINGS, model=models.policy, reward=models.reward)

    def move(trainer: PPOTrainer) -> None:
        with torch.no_grad():
            for weight in trainer.policy.parameters():
                weight.add_(0.1 * torch.randn(weight.shape, generator=trainer.stream))

    trainer = PPOTrainer(config, ALONE)
    move(trainer)
    with pytest.raises(TrainerError, match="first KL"):
        trainer.update(PROMPTS, 1, STEPS)
    trainer = PPOTrainer(config, ALONE)
    experience = trainer.collect(PROMPTS)
    move(trainer)
    with pytest.raises(TrainerError, match="first ratio"):
        trainer.update_policy(experience)


def test_demonstrations_come_one_batch_after_another(
    models_of: Callable[[str], Models], tmp_path: Path
) -> None:
    models = models_of("GPT2")
    data = tmp_path / "demonstrations.train.jsonl"
    with data.open("w") as lines:
        for text in ("the cat", "a dog ran", "no", "the sun sang !"):
            turns = [{"role": "user", "content": "tell me"}, {"role": "assistant", "content": text}]
            lines.write(json.dumps({"messages": turns}) + "\n")
    more = {"ptx_coef": 1.0, "ptx_data": str(data), "minibatches": 4, "ppo_epochs": 1}
    config = PPOConfig(**SETTINGS | more, model=models.policy, reward=models.reward)
    trainer = PPOTrainer(config, ALONE)
    assert trainer.ptx is not None
    assert trainer.update(PROMPTS, 1, STEPS)["ptx_loss"] > 0
    assert trainer.ptx.used == 4
    trainer.ptx.used = 0
    used = [trainer.ptx.next_batch() for _ in range(4)]
    # Four minibatches of two episodes, two demonstrations beside each: every one of them twice.
    assert [len(batch) for batch in used] == [2] * 4
    for half in (used[:2], used[2:]):
        assert sorted(str(row) for batch in half for row in batch) == sorted(
            map(str, trainer.ptx.rows)
        )


def test_a_reward_model_with_other_tokens_reads_the_same_texts(
    models_of: Callable[[str], Models], tmp_path: Path
) -> None:
    models = models_of("GPT2")
    tokenizer = load_tokenizer(models.reward)
    tokenizer.add_special_tokens({"unk_token": "<other>"})
    shutil.copytree(models.reward, tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    config = PPOConfig(**SETTINGS, model=models.policy, reward=models.reward)
    own = load_tokenizer(models.policy)
    same = RewardReader(models.reward, config, own, ALONE)
    other = RewardReader(str(tmp_path / "other"), config, own, ALONE)
    assert (same.same_tokens, other.same_tokens) == (True, False)
    words = [[7, 9, 12, 2], [20, 8, 8, 9, 10, 11, 13], [15, 2], [7, 9, 12, 14, 16, 2]]
    encoder = Encoder(own, 20)
    prompts = [PROMPTS[row] for row in (1, 0, 3, 2)]
    rows: list[SampledRow] = [
        (encoder.prompt(prompt, 20), said, said[-1] == 2)
        for prompt, said in zip(prompts, words, strict=True)
    ]
    rollout = from_rows(rows, 0, torch.device("cpu"))
    found, expected = (each.score(prompts, rollout, own, 3) for each in (other, same))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert len({round(reward, 3) for reward in expected.tolist()}) == 4
