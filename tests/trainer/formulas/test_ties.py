"""Davidson-Luce against all outcomes written out, and against data whose ties were made by it."""

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from trainer.data.examples import Ranking
from trainer.formulas import evaluation
from trainer.formulas.losses import davidson_luce, plackett_luce, smoothed_plackett_luce
from trainer.formulas.ties import (
    Rankings,
    compare_rules,
    fit_linear,
    largest_tie,
    order_chances,
)


def outcomes(count: int, largest: int) -> list[tuple[int, ...]]:
    """All rankings of so many with ties of at most `largest`, as dense ranks."""
    every = itertools.product(range(1, count + 1), repeat=count)
    return [
        ranks
        for ranks in every
        if set(ranks) == set(range(1, max(ranks) + 1)) and largest_tie([ranks]) <= largest
    ]


def chance_by_hand(rewards: list[float], ranks: tuple[int, ...], nu: dict[int, float]) -> float:
    """The product over choices, each divided by the sum over all sets that could be chosen."""
    strengths = [math.exp(each) for each in rewards]

    def weight(some: tuple[int, ...]) -> float:
        together = math.prod(strengths[index] for index in some)
        return float(nu[len(some)] * together ** (1 / len(some)))

    found = 1.0
    for rank in sorted(set(ranks)):
        remaining = [index for index, own in enumerate(ranks) if own >= rank]
        chosen = tuple(index for index, own in enumerate(ranks) if own == rank)
        sets = [
            some
            for size in range(1, min(len(nu), len(remaining)) + 1)
            for some in itertools.combinations(remaining, size)
        ]
        found *= weight(chosen) / sum(map(weight, sets))
    return found


def chance(rewards: Tensor, ranks: tuple[int, ...], log_nu: Tensor) -> float:
    """The same by our formula."""
    count = len(ranks)
    loss = davidson_luce(rewards[None], torch.tensor([ranks]), torch.ones(1, count), log_nu)
    return math.exp(-float(loss) * (count - 1))


@pytest.mark.parametrize(("count", "largest"), [(2, 2), (3, 2), (3, 3), (4, 2), (4, 4)])
def test_chances_are_those_of_every_choice_written_out_and_add_up_to_one(
    count: int, largest: int
) -> None:
    rewards = torch.tensor([0.7, -1.2, 2.0, 0.1], dtype=torch.double)[:count]
    nu = {1: 1.0, 2: 0.8, 3: 1.7, 4: 0.3}
    nu = {size: value for size, value in nu.items() if size <= largest}
    log_nu = torch.tensor([nu[size] for size in range(2, largest + 1)], dtype=torch.double).log()
    total = 0.0
    for ranks in outcomes(count, largest):
        found = chance(rewards, ranks, log_nu)
        assert found == pytest.approx(chance_by_hand(rewards.tolist(), ranks, nu), rel=1e-9), ranks
        total += found
    assert total == pytest.approx(1.0, abs=1e-9)
    # Breslow's rule adds up to more: its ties are no outcomes of their own.
    every = torch.tensor(outcomes(count, largest))
    breslow = plackett_luce(rewards.expand(len(every), -1), every, torch.ones(every.shape))
    assert float((-breslow * (count - 1)).exp().sum()) > 1.1


def test_two_candidates_are_davidsons_model() -> None:
    a, b, nu = 3.0, 0.5, 0.7
    rewards, log_nu = torch.tensor([a, b]).log(), torch.tensor([nu]).log()
    total = a + b + nu * math.sqrt(a * b)
    assert chance(rewards, (1, 2), log_nu) == pytest.approx(a / total)
    assert chance(rewards, (2, 1), log_nu) == pytest.approx(b / total)
    assert chance(rewards, (1, 1), log_nu) == pytest.approx(nu * math.sqrt(a * b) / total)


def test_without_ties_it_is_plackett_luce_and_a_larger_tie_than_any_cannot_be() -> None:
    rewards = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    ranks = torch.tensor([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [2, 1, 4, 3, 5]])
    mask = torch.ones(3, 5)
    assert torch.allclose(
        davidson_luce(rewards, ranks, mask, torch.empty(0)), plackett_luce(rewards, ranks, mask)
    )
    tied = torch.tensor([[1, 1, 1, 2, 3]])
    assert davidson_luce(rewards[:1], tied, mask[:1], torch.zeros(1)).tolist() == [math.inf]


def test_order_padding_and_gaps_change_nothing_for_two_to_nine() -> None:
    stream = torch.Generator().manual_seed(1)
    for count in range(2, 10):
        rewards = torch.randn(1, count, generator=stream, dtype=torch.double)
        ranks = torch.randint(1, count, (1, count), generator=stream)
        log_nu = torch.randn(count - 1, generator=stream, dtype=torch.double)
        mask = torch.ones(1, count)
        found = davidson_luce(rewards, ranks, mask, log_nu)
        order = torch.randperm(count, generator=stream)
        turned = davidson_luce(rewards[:, order], ranks[:, order], mask, log_nu)
        assert torch.allclose(found, turned), count
        assert torch.allclose(found, davidson_luce(rewards, ranks * 3, mask, log_nu)), count
        assert torch.allclose(found, davidson_luce(rewards + 5, ranks, mask, log_nu)), count
        wide = torch.nn.functional.pad(rewards, (0, 2), value=7)
        places = torch.nn.functional.pad(ranks, (0, 2), value=7)
        padded = davidson_luce(wide, places, torch.nn.functional.pad(mask, (0, 2)), log_nu)
        assert torch.allclose(found, padded), count


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_of_rewards_and_of_ties_are_those_of_finite_differences(smoothing: float) -> None:
    stream = torch.Generator().manual_seed(2)
    rewards = torch.randn(3, 4, generator=stream, dtype=torch.double).requires_grad_()
    log_nu = torch.randn(3, generator=stream, dtype=torch.double).requires_grad_()
    ranks = torch.tensor([[1, 2, 3, 4], [2, 1, 1, 1], [1, 1, 5, 5]])
    mask = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.double)

    def loss(rewards: Tensor, log_nu: Tensor) -> Tensor:
        return smoothed_plackett_luce(rewards, ranks, mask, smoothing=smoothing, log_nu=log_nu)

    assert torch.autograd.gradcheck(loss, (rewards, log_nu))
    # Far apart, and in the precision of training: still numbers.
    wild = (1e3 * rewards.detach().float()).requires_grad_()
    loss(wild, log_nu.detach().float()).sum().backward()
    assert wild.grad is not None
    assert bool(wild.grad.isfinite().all())


def draw(rewards: Tensor, log_nu: Tensor, stream: torch.Generator) -> Tensor:
    """(B, K) ranks drawn by the model, from the chances of all outcomes."""
    count = rewards.shape[1]
    every = torch.tensor(outcomes(count, len(log_nu) + 1))
    chances = torch.stack(
        [
            davidson_luce(rewards, each.expand(rewards.shape), torch.ones(rewards.shape), log_nu)
            for each in every
        ],
        dim=-1,
    )
    picked = torch.multinomial((-chances * (count - 1)).exp(), 1, generator=stream)[:, 0]
    return every[picked]


def planted(
    rows: int, count: int, nu: float, seed: int, slopes: tuple[float, ...] = (1.5, -0.8, 0.5)
) -> Rankings:
    """Rankings by known linear rewards and ties."""
    stream = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, count, len(slopes), generator=stream, dtype=torch.double)
    log_nu = torch.full((count - 1,), math.log(nu), dtype=torch.double)
    ranks = draw(features @ torch.tensor(slopes, dtype=torch.double), log_nu, stream)
    return Rankings(features, ranks, torch.ones(rows, count), torch.ones(rows))


def strict_odds(rankings: Rankings, rewards: Tensor, log_nu: Tensor | None) -> Tensor:
    """Log-odds of the orders that were given."""
    odds = evaluation.log_odds_of([*rewards], log_nu)
    return torch.stack(
        [
            own[better, worse]
            for ranks, own in zip(rankings.ranks.tolist(), odds, strict=True)
            for better, worse in evaluation.ordered(ranks)
        ]
    )


# nu, the share of pairs that are tied, and the share of the reward's spread that Breslow's rule leaves.
TIED = ((0.54, 0.15, 0.63), (1.1, 0.26, 0.49), (2.45, 0.42, 0.35))


@pytest.mark.parametrize(("nu", "share", "left"), TIED)
def test_planted_ties_and_spread_are_found_again(nu: float, share: float, left: float) -> None:
    rankings, fresh = planted(12_000, 2, nu, seed=3), planted(12_000, 2, nu, seed=4)
    tied = (rankings.ranks[:, 0] == rankings.ranks[:, 1]).double().mean()
    assert float(tied) == pytest.approx(share, abs=0.015)
    truth = torch.tensor((1.5, -0.8, 0.5)).norm()
    found, breslow = (fit_linear(rankings, largest=largest) for largest in (2, None))
    assert float(found.slopes.norm() / truth) == pytest.approx(1, abs=0.04)
    assert float(found.log_nu.exp()) == pytest.approx(nu, rel=0.06)
    assert float(breslow.slopes.norm() / truth) == pytest.approx(left, abs=0.03)
    errors = [
        float(evaluation.calibration_error(odds.sigmoid()))
        for odds in (
            strict_odds(fresh, fresh.features @ fit.slopes, log_nu)
            for fit, log_nu in ((found, found.log_nu), (breslow, None))
        )
    ]
    assert errors[0] < 0.015
    assert errors[1] > 0.06


def test_planted_ties_of_four_candidates_are_found_again_and_calibrated() -> None:
    rankings, fresh = planted(1_500, 4, 0.6, seed=5), planted(2_000, 4, 0.6, seed=6)
    found = fit_linear(rankings, largest=4)
    truth = torch.tensor((1.5, -0.8, 0.5)).norm()
    assert float(found.slopes.norm() / truth) == pytest.approx(1, abs=0.06)
    assert found.log_nu.exp().tolist() == pytest.approx([0.6] * 3, rel=0.25)
    rewards = fresh.features @ found.slopes
    odds = strict_odds(fresh, rewards, found.log_nu)
    assert float(evaluation.calibration_error(odds.sigmoid())) < 0.02
    # Ties with a third candidate lessen a pair's odds: taken for Bradley-Terry, they are overconfident.
    plain = strict_odds(fresh, rewards, None)
    assert float(evaluation.calibration_error(plain.sigmoid())) > 0.03


def test_a_weight_counts_as_often_as_a_row_and_the_rarest_tie_has_a_finite_parameter() -> None:
    rankings = planted(600, 3, 0.8, seed=7)
    twice = Rankings(*(torch.cat([each, each[:200]]) for each in rankings))
    weighted = rankings._replace(weights=torch.cat([torch.full((200,), 2.0), torch.ones(400)]))
    one, other = (fit_linear(each, largest=3) for each in (twice, weighted))
    assert torch.allclose(one.slopes, other.slopes, atol=1e-4)
    assert torch.allclose(one.log_nu, other.log_nu, atol=1e-4)
    never = fit_linear(rankings._replace(ranks=rankings.ranks.argsort(-1)), largest=3)
    assert bool(never.log_nu.isfinite().all())
    assert bool((never.log_nu < -2).all())


def test_the_chances_of_pairs_are_those_of_all_outcomes_added_up() -> None:
    for count, largest in ((2, 2), (3, 2), (4, 4), (5, 3)):
        rewards = torch.randn(count, generator=torch.Generator().manual_seed(count)).double()
        log_nu = torch.linspace(-0.5, 0.5, largest - 1, dtype=torch.double)
        found = order_chances(rewards[None], log_nu)[0]
        wanted = torch.zeros(count, count, dtype=torch.double)
        for ranks in outcomes(count, largest):
            own = torch.tensor(ranks)
            wanted += chance(rewards, ranks, log_nu) * (own[:, None] < own).double()
        assert torch.allclose(found, wanted, atol=1e-6), count


def worlds() -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Pairs whose ties come about otherwise: by a threshold, by chance, by rounding."""
    stream = torch.Generator().manual_seed(8)
    features = torch.randn(4_000, 2, 3, generator=stream, dtype=torch.double)
    rewards = features @ torch.tensor((1.5, -0.8, 0.5), dtype=torch.double)
    chance = torch.rand(rewards.shape, generator=stream).double().clamp(1e-6, 1 - 1e-6)
    felt = rewards - (-chance.log()).log()  # a Gumbel's noise on each: Plackett-Luce
    strict = torch.where((felt[:, :1] > felt[:, 1:]), torch.tensor([1, 2]), torch.tensor([2, 1]))
    near = (felt[:, 0] - felt[:, 1]).abs() < 0.8
    lazy = torch.rand(len(rewards), generator=stream) < 0.25
    rounded = (felt / 2).round()
    alike = rounded[:, 0] == rounded[:, 1]
    for name, tied in (("threshold", near), ("lazy", lazy), ("rounded", alike)):
        yield name, features, torch.where(tied[:, None], 1, strict), tied


def test_where_ties_come_about_otherwise_its_held_out_likelihood_is_still_no_worse() -> None:
    # What --ties auto rests on where it cannot measure.
    for name, features, ranks, tied in worlds():
        assert 0.1 < float(tied.double().mean()) < 0.4, name
        rankings = Rankings(features, ranks, torch.ones(ranks.shape), torch.ones(len(ranks)))
        train, held_out = (
            Rankings(*(each[part] for each in rankings))
            for part in (slice(2000), slice(2000, None))
        )
        found = compare_rules(train, held_out, largest=2)
        assert found is not None
        assert found["difference"] > -found["standard_error"], name


def test_the_figures_of_ties_by_hand() -> None:
    # Two equal candidates and nu = 2: a tie in half of all cases, and each order in a quarter.
    told = [{"role": "user", "content": "tell me"}]
    rankings = [Ranking(told, ["a", "b"], ranks) for ranks in ([1, 1], [1, 1], [1, 1], [1, 2])]
    equal = [torch.zeros(2)] * 4
    found = evaluation.tie_figures(rankings, equal, torch.tensor([2.0]).log())
    assert found == {
        "pairs": 4,
        "tied": 0.75,
        "tied_predicted": pytest.approx(0.5),
        "calibration_error": pytest.approx(0.25),
        "rankings": 4,
        "log_loss": pytest.approx(-(3 * math.log(0.5) + math.log(0.25)) / 4),
        "larger_ties": 0,
    }
    three = [Ranking(told, ["a", "b", "c"], [1, 1, 1])]
    beyond = evaluation.tie_figures(three, [torch.zeros(3)], torch.zeros(1))
    assert (beyond["rankings"], beyond["log_loss"], beyond["larger_ties"]) == (0, None, 1)
