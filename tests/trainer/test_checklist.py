"""What implementations of RLHF get wrong, line by line, and the test that would catch it.

| detail | test |
| --- | --- |
| 1 a token's log-probability is that of the logits before it | here: `…_minus_the_cross_entropy` |
| 2 temperature everywhere | stages: `…_ratios_are_one_and_kl_is_zero`; losses: `…_temperature` |
| 3 no truncating sampler | here: `…_drawn_as_often_as_the_softmax_says` |
| 4, 5 ratio 1, KL 0 at first | stages: `…_ratios_are_one_and_kl_is_zero`; here: `…_with_no_step_…` |
| 6 sampling and training agree | sampling: `…_plain_forward_passes`; whole_step: `test_two_updates_…` |
| 7 padding changes nothing | stages: `…_padding_on_either_side…`; here: `…_company_in_its_batch` |
| 8 padding is not the end token | here: `…_gets_padding_of_its_own` |
| 9 the end token is learnt | stages: `…_sft_teaches_what_to_say_and_when_to_end` |
| 10 what is scored is what was sampled | here: `…_scored_as_the_reward_model_was_trained…` |
| 11 missing ends | stages: `…_missing_ends_cost_their_penalty…` |
| 12, 13 one token gets the score, the row adds up | losses: `…_lands_on_one_token_and_the_row_adds_up` |
| 14 adaptive KL | losses: `…_kl_coefficient_follows_its_target` |
| 15 KL estimators | losses: `…_average_to_the_exact_kl`; here: `…_gradients_of_the_kl_…` |
| 16 nothing leaks in from masked positions | losses: `…_behind_the_end_never_leaks_in` |
| 17 GAE | losses: `test_gae_by_hand` |
| 18 whitening | losses: `…_whitening_sees_only_what_counts` |
| 19 clipping | losses: `…_clipped_policy_loss…`, `…_clipped_value_loss…`, `…_no_gradient_where…` |
| 20 values see the state before the token | stages: `…_value_knows_nothing_of_its_own_token` |
| 21 the value model starts as the reward model | here: `…_value_model_starts_as_the_reward_model` |
| 22 rewards are normalised | stages: `…_mean_reward_of_preferred_responses_is_zero…` |
| 23 the ranking likelihood | losses: `test_two_candidates_are_bradley_terry` and the five after it |
| 24 no dropout | here: `…_two_forward_passes_in_training_are_equal` |
| 25 Adam's epsilon and the falling learning rate | here: `…_adam_…` |
| 26 the reference stays | stages: `…_leaves_its_reference_alone`; options: `…_started_from_bit_for_bit` |
| 27 exact resume | stages: `…_ends_with_the_same_weights_bit_for_bit`; kill: `test_a_killed_run_goes_on…` |
| 28 minibatches | here: `…_come_in_a_fresh_order…`; stages: `…_accumulation_changes_nothing` |
| 29 what is logged, with the right signs | here: `…_figures_add_up` |
| 30 the same prompts and draws before and after | here: `…_judged_on_the_same_draws` |
| 31 float32 | here: `…_float32_whatever_the_checkpoint_says` |
| 32 a bandit's closed form | bandit: `…_closed_form_optimum_of_a_bandit_is_reached` |
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from checks import checklist
from tests.trainer.conftest import make_tokenizer
from trainer import ppo, reward
from trainer.engine import capabilities, forward, models, responses, shared_prefix, tokens
from trainer.engine.distributed import Processes
from trainer.formulas import kl, logprobs
from trainer.rl.rollout import sample
from trainer.settings.ppo import PPOConfig
from trainer.settings.reward import RewardConfig

CPU = torch.device("cpu")
ALONE = Processes(CPU)
PROMPTS = [[{"role": "user", "content": "tell me story"}]] * 8


@pytest.fixture
def reward_model(tiny_model: str, rankings: Path, tmp_path: Path) -> str:
    out = tmp_path / "reward"
    config = RewardConfig(
        data=str(rankings), model=tiny_model, out=str(out), lr=3e-3, steps=4, batch_size=8,
        max_length=64, device="cpu",
    )  # fmt: skip
    reward.main(config)
    return str(out / "model")


def config_of(tiny_model: str, reward_model: str, rankings: Path, **more: Any) -> PPOConfig:
    wanted: dict[str, Any] = {
        "data": str(rankings), "model": tiny_model, "reward": reward_model, "out": "unused",
        "lr": 1e-3, "batch_size": 8, "response_length": 8, "max_length": 32, "device": "cpu",
    }  # fmt: skip
    return PPOConfig(**(wanted | more))


@pytest.fixture
def trainer(tiny_model: str, reward_model: str, rankings: Path) -> ppo.PPOTrainer:
    return ppo.PPOTrainer(config_of(tiny_model, reward_model, rankings), ALONE)


def test_log_probabilities_add_up_to_minus_the_cross_entropy(tiny_model: str) -> None:
    tokenizer = tokens.load_tokenizer(tiny_model)
    policy: Any = models.load_policy(tiny_model, tokenizer, CPU)
    prompt, response = [1, 4, 8, 5], [9, 10, 11, 2]
    ids = torch.tensor([prompt + response])
    labels = ids.clone()
    labels[0, : len(prompt)] = -100
    with torch.no_grad():
        theirs = policy(input_ids=ids, labels=labels).loss * len(response)
        batch = shared_prefix.build_batch(
            [(prompt, [response])], capabilities.probe_capabilities(policy), 0
        )
        ours = responses.response_token_logprobs(policy, batch)
    assert len(ours) == len(response)
    assert float(ours.sum()) == pytest.approx(-float(theirs), abs=1e-4)


@pytest.mark.slow
def test_tokens_are_drawn_as_often_as_the_softmax_says(tiny_model: str) -> None:
    tokenizer = tokens.load_tokenizer(tiny_model)
    policy = models.load_policy(tiny_model, tokenizer, CPU)
    stream = torch.Generator().manual_seed(3)
    drawn = [
        sample(
            policy, [[1, 4, 8, 5]] * 1000, length=1, temperature=0.7, end=2, pad=0, stream=stream
        ).response[:, 0]
        for _ in range(20)  # not all in one batch: that takes several times as long
    ]
    count = 20_000
    with torch.no_grad():
        logits = policy(input_ids=torch.tensor([[1, 4, 8, 5]])).logits[0, -1]
    expected = (logits / 0.7).softmax(-1) * count
    seen = torch.bincount(torch.cat(drawn), minlength=len(expected)).float()
    # Chi squared with as many degrees of freedom as tokens less one: mean d, variance 2 d.
    freedom = len(expected) - 1
    distance = float(((seen - expected) ** 2 / expected).sum())
    assert distance < freedom + 5 * math.sqrt(2 * freedom)


def test_with_no_step_the_distance_stays_nothing_update_after_update(
    tiny_model: str, reward_model: str, rankings: Path
) -> None:
    config = config_of(tiny_model, reward_model, rankings, lr=1e-30, micro_batch=2)
    trainer = ppo.PPOTrainer(config, ALONE)
    for step in (1, 2, 3):
        figures = trainer.update(PROMPTS, step, 4)
        assert figures["kl"] == figures["kl_k2"] == figures["kl_k3"] == 0
        assert figures["ratio_var"] == pytest.approx(0, abs=1e-9)


def test_a_row_is_scored_the_same_whatever_its_company_in_its_batch(reward_model: str) -> None:
    tokenizer = tokens.load_tokenizer(reward_model)
    scorer = models.load_frozen_reward_model(reward_model, tokenizer, CPU)
    encoder = tokens.Encoder(tokenizer, 64)
    short = (PROMPTS[0], "the cat sat")
    long = (PROMPTS[0], "the cat sat on the hill under the sun and the moon . the dog sang !")
    alone = float(forward.score_texts(scorer, encoder, [short])[0])
    for company in ([short, long], [long, short], [long, long, short, long]):
        found = forward.score_texts(scorer, encoder, company)[company.index(short)]
        assert float(found) == pytest.approx(alone, abs=1e-5)


def test_a_tokenizer_that_pads_with_its_end_token_gets_padding_of_its_own(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path)
    loaded = tokens.load_tokenizer(str(tmp_path))
    assert loaded.pad_token_id != loaded.eos_token_id


def test_responses_are_scored_as_the_reward_model_was_trained_to_read_them(
    trainer: ppo.PPOTrainer,
) -> None:
    rollout = trainer.roll_out(PROMPTS, trainer.stream)
    found, _ = trainer.score(PROMPTS, rollout)
    for row, messages in enumerate(PROMPTS):
        prompt = trainer.encoder.prompt(messages, trainer.max_prompt_tokens)
        response = rollout.response[row][rollout.response_mask[row].bool()].tolist()
        if not rollout.ended[row]:
            response.append(trainer.tokenizer.eos_token_id)
        ids, mask = tokens.pad_right([prompt + response], trainer.tokenizer.pad_token_id, CPU)
        with torch.no_grad():
            alone = forward.sequence_rewards(trainer.rewards.first.model, ids, mask)[0]
            alone = alone / trainer.rewards.first.spread
        assert float(found[row]) == pytest.approx(float(alone), abs=1e-5)


def test_gradients_of_the_kl_estimators_as_losses() -> None:
    # As a loss on the policy's own samples, k1's expected gradient is nothing at all, and k2's is that
    # of the KL: worked out exactly, over all tokens of a small vocabulary.
    torch.manual_seed(0)
    logits = torch.randn(5, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(5, dtype=torch.float64).log_softmax(-1)
    chances = logits.log_softmax(-1).exp().detach()
    exact = (logits.softmax(-1) * (logits.log_softmax(-1) - reference)).sum()
    (wanted,) = torch.autograd.grad(exact, logits)
    k1, k2, _ = kl.kl_estimates(logits.log_softmax(-1), reference)
    (first,) = torch.autograd.grad((chances * k1).sum(), logits, retain_graph=True)
    (second,) = torch.autograd.grad((chances * k2).sum(), logits)
    assert torch.allclose(first, torch.zeros(5, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(second, wanted, atol=1e-12)


def test_the_value_model_starts_as_the_reward_model(trainer: ppo.PPOTrainer) -> None:
    one, other = trainer.value_model.state_dict(), trainer.rewards.first.model.state_dict()
    assert one.keys() == other.keys()
    head = "score.weight"  # on the scale of normalised rewards
    assert torch.equal(one.pop(head), other.pop(head) / trainer.rewards.first.spread)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(weight.requires_grad for weight in trainer.value_model.parameters())
    assert not any(weight.requires_grad for weight in trainer.rewards.first.model.parameters())


def test_two_forward_passes_in_training_are_equal(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=64,
        resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    policy = models.load_policy(str(tmp_path), tokens.load_tokenizer(str(tmp_path)), CPU).train()
    ids = torch.tensor([[1, 4, 8, 5, 9, 10]])
    assert torch.equal(policy(input_ids=ids).logits, policy(input_ids=ids).logits)


def test_adam_has_the_epsilon_of_the_papers_and_its_rate_falls_to_nothing(
    trainer: ppo.PPOTrainer,
) -> None:
    assert [group["eps"] for group in trainer.optimizer.param_groups] == [1e-5, 1e-5]
    assert all(group["weight_decay"] == 0 for group in trainer.optimizer.param_groups)
    rates = []
    for step in (1, 2, 3, 4):
        trainer.update(PROMPTS, step, 4)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])


def test_minibatches_come_in_a_fresh_order_and_each_episode_once(
    tiny_model: str, reward_model: str, rankings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tiny_model, reward_model, rankings, minibatches=2, ppo_epochs=3)
    trainer = ppo.PPOTrainer(config, ALONE)
    seen: list[list[int]] = []
    plain = trainer.minibatch_step

    def record(experience: ppo.Experience, rows: torch.Tensor) -> dict[str, float]:
        seen.append(rows.tolist())
        return plain(experience, rows)

    monkeypatch.setattr(trainer, "minibatch_step", record)
    trainer.update(PROMPTS, 1, 4)
    passes = [seen[0] + seen[1], seen[2] + seen[3], seen[4] + seen[5]]
    assert all(sorted(each) == list(range(8)) for each in passes)
    assert len({tuple(each) for each in passes}) == 3


def test_the_figures_add_up(trainer: ppo.PPOTrainer) -> None:
    trainer.update(PROMPTS, 1, 4)
    figures = trainer.update(PROMPTS, 2, 4)
    penalties = trainer.config.missing_eos_penalty * (1 - figures["ended_share"])
    total = figures["score"] - penalties + figures["non_score_reward"]
    assert figures["rlhf_reward"] == pytest.approx(total, abs=1e-5)
    assert figures["non_score_reward"] == pytest.approx(-trainer.config.kl_coef * figures["kl"])
    assert figures["kl_k2"] >= 0
    assert figures["kl_k3"] >= 0
    assert 0 < figures["entropy"] <= math.log(len(trainer.tokenizer))
    assert figures["sequence_entropy"] > 0
    assert 0 <= figures["clip_share"] <= 1
    for name in ("approx_kl", "ratio", "value_error", "explained_variance", "tokens_per_second"):
        assert math.isfinite(figures[name]), name


def test_before_and_after_are_judged_on_the_same_draws(trainer: ppo.PPOTrainer) -> None:
    before = trainer.stream.get_state()
    one, other = trainer.evaluate(PROMPTS), trainer.evaluate(PROMPTS)
    assert one.texts == other.texts
    assert torch.equal(one.rewards, other.rewards)
    assert torch.equal(trainer.stream.get_state(), before)  # training's own draws are untouched


def test_models_compute_in_float32_whatever_the_checkpoint_says(
    tiny_model: str, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    half = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    half.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    tokenizer = tokens.load_tokenizer(str(tmp_path))
    policy = models.load_policy(str(tmp_path), tokenizer, CPU)
    assert {weight.dtype for weight in policy.parameters()} == {torch.float32}
    logits = torch.randn(1, 2, 7).to(torch.bfloat16)
    assert logprobs.token_logprobs(logits, torch.tensor([[1, 2]]), 1.0).dtype == torch.float32


def test_every_test_of_the_table_exists() -> None:
    assert __doc__ is not None
    assert checklist.problems(__doc__, Path(__file__).parent) == []


def test_dropout_is_off_by_module_and_by_attribute(tiny_model: str) -> None:
    tokenizer = tokens.load_tokenizer(tiny_model)
    policy = models.load_policy(tiny_model, tokenizer, CPU)
    for module in policy.modules():
        assert not (isinstance(module, nn.Dropout) and module.p)
        assert getattr(module, "attention_dropout", 0) == 0
