"""Every formula against numbers worked out by hand, and the properties that it must have."""

import itertools
import math

import pytest
import torch
from torch import tensor

from trainer.formulas import evaluation, logprobs, losses, masked
from trainer.formulas.advantages import gae, leave_one_out, rewards_per_token
from trainer.formulas.kl import adapt_kl, best_of_n_kl, kl_estimates


def pl(rewards: list[float], ranks: list[int]) -> float:
    """The loss of one ranking."""
    row = tensor([rewards])
    return float(losses.plackett_luce(row, tensor([ranks]), torch.ones_like(row)))


def test_two_candidates_are_bradley_terry() -> None:
    assert pl([1.0, -0.5], [1, 2]) == pytest.approx(math.log(1 + math.exp(-1.5)))
    assert pl([0.3, 0.3], [1, 2]) == pytest.approx(math.log(2))
    assert pl([2.0, 0.5], [1, 2]) - pl([0.5, 2.0], [1, 2]) == pytest.approx(-1.5)


def test_three_candidates_by_hand() -> None:
    e = [math.exp(x) for x in (1.0, 0.0, -1.0)]
    by_hand = -math.log(e[0] / sum(e)) - math.log(e[1] / (e[1] + e[2]))
    assert pl([1.0, 0.0, -1.0], [1, 2, 3]) == pytest.approx(by_hand / 2)


def test_the_likelihoods_of_all_orders_add_up_to_one() -> None:
    rewards = [0.7, -0.2, 1.1, 0.0]
    total = sum(
        math.exp(-3 * pl(rewards, list(order))) for order in itertools.permutations((1, 2, 3, 4))
    )
    assert total == pytest.approx(1.0, abs=1e-5)


def test_a_tie_is_one_win_each_way_and_best_at_equal_rewards() -> None:
    a, b = 0.4, -0.3
    both = -math.log(1 / (1 + math.exp(b - a))) - math.log(1 / (1 + math.exp(a - b)))
    assert pl([a, b], [1, 1]) == pytest.approx(both)
    assert pl([0.0, 0.0], [1, 1]) < pl([0.1, 0.0], [1, 1])


def test_order_within_a_tie_does_not_matter_nor_do_gaps_or_padding() -> None:
    assert pl([0.3, 1.0, -0.5], [1, 1, 2]) == pytest.approx(pl([1.0, 0.3, -0.5], [1, 1, 2]))
    assert pl([0.3, 1.0, -0.5], [1, 1, 2]) == pytest.approx(pl([0.3, 1.0, -0.5], [1, 1, 3]))
    padded = losses.plackett_luce(
        tensor([[0.3, 1.0, 99.0]]), tensor([[1, 2, 4]]), tensor([[1.0, 1.0, 0.0]])
    )
    assert float(padded) == pytest.approx(pl([0.3, 1.0], [1, 2]))


def test_gradients_of_the_ranking_likelihood_are_right() -> None:
    ranks, mask = tensor([[1, 1, 3, 2], [2, 1, 3, 5]]), tensor([[1.0] * 4, [1.0, 1.0, 1.0, 0.0]])
    rewards = torch.randn(2, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda r: losses.plackett_luce(r, ranks, mask.double()), rewards
    )


def test_gae_by_hand() -> None:
    values, rewards = tensor([[0.5, 0.5, 0.5]]), tensor([[0.0, 0.0, 1.0]])
    mask = torch.ones(1, 3)
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=0.95)
    assert advantages[0].tolist() == pytest.approx([0.45125, 0.475, 0.5])
    assert returns[0].tolist() == pytest.approx([0.95125, 0.975, 1.0])
    all_ahead, _ = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    assert all_ahead[0].tolist() == pytest.approx([0.5, 0.5, 0.5])  # returns minus values
    one_step, _ = gae(rewards, values, mask, gamma=1.0, lam=0.0)
    assert one_step[0].tolist() == pytest.approx([0.0, 0.0, 0.5])


def test_what_stands_behind_the_end_never_leaks_in() -> None:
    mask = tensor([[1.0, 1.0, 0.0, 0.0]])
    clean = gae(
        tensor([[0.0, 1.0, 0.0, 0.0]]), tensor([[0.1, 0.2, 0.0, 0.0]]), mask, gamma=1.0, lam=0.95
    )
    dirty = gae(
        tensor([[0.0, 1.0, 7.0, 7.0]]), tensor([[0.1, 0.2, 100.0, 9.0]]), mask, gamma=1.0, lam=0.95
    )
    for one, other in zip(clean, dirty, strict=True):
        assert torch.equal(one, other)


def test_whitening_sees_only_what_counts() -> None:
    values, mask = tensor([[1.0, 2.0, 3.0, 99.0]]), tensor([[1.0, 1.0, 1.0, 0.0]])
    white = masked.whiten(values, mask)
    assert float(masked.masked_mean(white, mask)) == pytest.approx(0, abs=1e-6)
    assert float(masked.masked_var(white, mask)) == pytest.approx(1, abs=1e-6)
    assert white[0, 3] == 0
    kept = masked.whiten(values, mask, shift_mean=False)
    assert float(masked.masked_mean(kept, mask)) == pytest.approx(2.0)


def test_the_score_lands_on_one_token_and_the_row_adds_up() -> None:
    logprobs, reference = tensor([[-1.0, -2.0, -3.0]]), tensor([[-1.5, -1.0, -9.0]])
    mask = tensor([[1.0, 1.0, 0.0]])
    rewards = rewards_per_token(tensor([2.0]), logprobs, reference, mask, 0.1)
    assert rewards[0].tolist() == pytest.approx([-0.05, 0.1 + 2.0, 0.0])
    assert float(rewards.sum()) == pytest.approx(2.0 - 0.1 * (0.5 - 1.0))


def test_kl_estimates_average_to_the_exact_kl() -> None:
    p, q = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25]), torch.tensor([0.3, 0.1, 0.2, 0.2, 0.2])
    k1, k2, k3 = kl_estimates(p.log(), q.log())
    exact = float((p * (p / q).log()).sum())
    assert float((p * k1).sum()) == pytest.approx(exact)
    assert float((p * k3).sum()) == pytest.approx(exact)
    assert (k3 >= 0).all()
    assert torch.allclose(k2, k1**2 / 2)
    assert all(float(k.abs().max()) == 0 for k in kl_estimates(p.log(), p.log()))


@pytest.mark.parametrize(
    ("kl", "expected"), [(6.0, 0.1), (12.0, 0.1 * 1.00128), (0.0, 0.1 * 0.99872), (6.6, 0.1 * 1.00064)]
)  # fmt: skip
def test_the_kl_coefficient_follows_its_target(kl: float, expected: float) -> None:
    found = adapt_kl(0.1, kl, target=6.0, horizon=10_000, episodes=64)
    assert found == pytest.approx(expected)


def test_leave_one_out_by_hand() -> None:
    rewards = torch.tensor([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]])
    expected = torch.tensor([[-3.0, -1.5, 4.5], [0.0, 0.0, 0.0]])
    assert torch.allclose(leave_one_out(rewards), expected)
    assert torch.allclose(leave_one_out(rewards + 7), expected)


def test_the_distance_of_the_best_of_n_is_that_of_uniform_ranks() -> None:
    # Drawn from many equally likely responses, the best of n has the density n u^(n-1) over ranks u:
    # its KL from the uniform one is the integral of n u^(n-1) log(n u^(n-1)).
    for n in (1, 2, 4, 16):
        u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
        density = n * u ** (n - 1)
        exact = float((density * density.log()).mean())
        assert abs(best_of_n_kl(n) - exact) < 1e-4


def test_the_clipped_policy_loss_by_hand() -> None:
    old = torch.zeros(1, 4)
    new = tensor([[math.log(1.5), math.log(0.5), math.log(1.5), math.log(0.5)]])
    advantages = tensor([[1.0, 1.0, -1.0, -1.0]])
    loss, share = losses.policy_loss(new, old, advantages, torch.ones(1, 4), 0.2)
    # Clipped at 1.2; not clipped; not clipped; clipped at 0.8.
    assert float(loss) == pytest.approx(-1.2 - 0.5 + 1.5 + 0.8)
    assert float(share) == pytest.approx(0.5)


def test_no_gradient_where_the_ratio_is_clipped_on_the_bad_side() -> None:
    new = tensor([[math.log(1.5), math.log(0.5)]], requires_grad=True)
    loss, _ = losses.policy_loss(
        new, torch.zeros(1, 2), tensor([[1.0, -1.0]]), torch.ones(1, 2), 0.2
    )
    loss.backward()
    assert new.grad is not None
    assert new.grad.tolist() == [[0.0, 0.0]]


def test_the_clipped_value_loss_by_hand() -> None:
    loss, share = losses.value_loss(
        tensor([[1.0]]), tensor([[0.0]]), tensor([[2.0]]), torch.ones(1, 1), 0.2
    )
    assert float(loss) == pytest.approx(0.5 * (0.2 - 2.0) ** 2)
    assert float(share) == 1.0


def test_dpo_by_hand() -> None:
    # log ratios: -1.0 - -1.5 and -2.0 - -1.0
    loss = losses.dpo(tensor(0.5), tensor(-1.0), beta=0.1)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-0.15)))
    assert float(losses.dpo(tensor(0.0), tensor(0.0), beta=0.1)) == pytest.approx(math.log(2))
    smooth = losses.dpo(tensor(0.5), tensor(-1.0), beta=0.1, smoothing=0.2)
    assert float(smooth) == pytest.approx(0.8 * float(loss) + 0.2 * math.log(1 + math.exp(0.15)))


def test_ipo_by_hand_wants_a_distance_and_no_more() -> None:
    assert float(losses.ipo(tensor(0.5), tensor(-1.0), beta=0.1)) == pytest.approx(3.5**2)
    assert float(losses.ipo(tensor(5.0), tensor(0.0), beta=0.1)) == 0


def test_logprobs_divide_by_the_temperature() -> None:
    logits, token = tensor([[1.0, 2.0, 0.0]]), tensor([1])
    by_hand = (2 / 0.7) - math.log(sum(math.exp(x / 0.7) for x in (1.0, 2.0, 0.0)))
    assert float(logprobs.token_logprobs(logits, token, 0.7)) == pytest.approx(by_hand, abs=1e-5)
    assert float(
        logprobs.chosen_and_entropy(torch.zeros(1, 4), torch.tensor([0]), 1.0)[1]()
    ) == pytest.approx(math.log(4))


def test_calibration_error_by_hand() -> None:
    # Confidence 0.9 twice, right once: a gap of 0.4; 0.6 once, right: a gap of 0.4.
    found = evaluation.calibration_error(tensor([0.9, 0.1, 0.6], dtype=torch.double))
    assert float(found) == pytest.approx(0.4)
    assert float(evaluation.calibration_error(tensor([1.0, 1.0]))) == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_of_the_likelihoods_are_those_of_finite_differences(smoothing: float) -> None:
    torch.manual_seed(0)
    rewards = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    ranks = torch.tensor(
        [[1, 2, 3, 4], [2, 1, 1, 3], [1, 2, 5, 5]]
    )  # strict, tied, two of four there
    mask = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda values: losses.smoothed_plackett_luce(values, ranks, mask, smoothing=smoothing),
        rewards,
    )
    chosen, rejected = (torch.randn(5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(
        lambda a, b: losses.dpo(a, b, beta=0.3, smoothing=smoothing), (chosen, rejected)
    )
    assert torch.autograd.gradcheck(lambda a, b: losses.ipo(a, b, beta=0.3), (chosen, rejected))


def test_entropy_is_that_of_the_distribution() -> None:
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    wanted = torch.distributions.Categorical(logits=logits / 0.7).entropy()
    tokens = torch.zeros(logits.shape[:-1], dtype=torch.long)
    entropies = logprobs.chosen_and_entropy(logits, tokens, 0.7)[1]
    assert torch.allclose(entropies(), wanted, atol=1e-5)
