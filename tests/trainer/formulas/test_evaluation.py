"""Rewards held against people: slices, calibration, the ceiling, each worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import evaluate, reward
from trainer.data.examples import Ranking
from trainer.data.files import read_rankings
from trainer.errors import TrainerError
from trainer.formulas import evaluation
from trainer.settings.evaluate import EvaluateConfig
from trainer.settings.reward import RewardConfig

USER = [{"role": "user", "content": "tell me"}]


def ranking(ranks: list[int], rater: str = "a", **more: Any) -> Ranking:
    texts = ["long text", "mid", "s"][: len(ranks)]
    return Ranking(USER, texts, ranks, rater=rater, policies=("p", "q", "p")[: len(ranks)], **more)


def test_pairs_of_a_ranking_are_its_strict_ones_preferred_first() -> None:
    pairs = evaluation.strict_pairs([ranking([2, 1, 2])], [torch.tensor([0.5, 1.0, -1.0])])
    assert [(pair.texts, pair.margin) for pair in pairs] == [
        (("mid", "long text"), 0.5),
        (("mid", "s"), 2.0),
    ]


def test_slices_tell_who_what_and_how_long() -> None:
    rankings = [ranking([1, 2], "a"), ranking([2, 1], "b"), ranking([1, 2], "b")]
    rewards = [torch.tensor([1.0, 0.0])] * 3
    found = evaluation.slices_of(evaluation.strict_pairs(rankings, rewards), rankings, rewards)
    assert found["rater"]["a"]["accuracy"] == 1
    assert found["rater"]["b"]["accuracy"] == 0.5
    assert found["policies"]["p / q"]["pairs"] == 3
    assert found["length"]["preferred is longer"] == {
        "pairs": 2, "accuracy": 1, "accuracy_interval": evaluation.wilson(1.0, 2),
    }  # fmt: skip
    assert found["length"]["preferred is shorter"]["accuracy"] == 0


def test_an_axis_has_its_own_order() -> None:
    one = ranking([1, 2, 3], axes={"honest": (1.0, 5.0, None), "kind": (2.0, 2.0, 1.0)})
    rewards = [torch.tensor([3.0, 2.0, 1.0])]
    found = evaluation.slices_of(evaluation.strict_pairs([one], rewards), [one], rewards)["axis"]
    assert found["honest"]["pairs"] == 1
    assert found["honest"]["accuracy"] == 0
    assert found["kind"]["pairs"] == 2
    assert found["kind"]["accuracy"] == 1


def test_the_ceiling_is_what_people_reach_among_themselves() -> None:
    # Three of a's, b's and c's say the first, one says the other: of 6 pairs of votes 3 agree.
    rankings = [ranking([1, 2], rater) for rater in "abc"] + [ranking([2, 1], "d")]
    rewards = [torch.tensor([1.0, 0.0])] * 4
    found = evaluation.human_ceiling(evaluation.strict_pairs(rankings, rewards))
    assert found is not None
    assert found["pairs"] == 1
    assert found["votes"] == 4
    assert found["agreement"] == 0.5
    assert found["ceiling"] == found["accuracy"] == 0.75
    alone = evaluation.strict_pairs([ranking([1, 2])], rewards[:1])
    assert evaluation.human_ceiling(alone) is None


def test_bins_of_confidence_hold_every_pair_once() -> None:
    margins = torch.tensor([0.0, 0.1, -0.1, 2.0, 3.0, -4.0], dtype=torch.float64)
    bins = evaluation.calibration_of(margins)
    assert sum(each["pairs"] for each in bins) == 6
    first, *_, last = bins
    assert first["pairs"] == 3
    assert first["accuracy"] == 0.5  # one half, one right, one wrong
    assert last["confidence"] == pytest.approx(float(torch.tensor([3.0, 4.0]).sigmoid().mean()))
    error = sum(each["pairs"] / 6 * abs(each["confidence"] - each["accuracy"]) for each in bins)
    assert evaluation.figures_of(margins)["calibration_error"] == pytest.approx(error)


def test_rewards_that_follow_length_show_it() -> None:
    rankings = [ranking([1, 2, 3]), ranking([3, 1, 2])]
    lengths = torch.tensor([9.0, 3.0, 1.0])
    pairs = evaluation.strict_pairs(rankings, [lengths, lengths])
    assert evaluation.length_correlation(pairs) == pytest.approx(1)
    pairs = evaluation.strict_pairs(rankings, [-lengths, -lengths])
    assert evaluation.length_correlation(pairs) == pytest.approx(-1)


@pytest.fixture
def two_members(tiny_model: str, rankings: Path, tmp_path: Path) -> list[str]:
    for seed in (0, 1):
        reward.main(
            RewardConfig(
                data=str(rankings), model=tiny_model, out=str(tmp_path / str(seed)), lr=2e-4,
                steps=3, batch_size=8, max_length=64, device="cpu", seed=seed,
            )
        )  # fmt: skip
    return [str(tmp_path / str(seed) / "model") for seed in (0, 1)]


def test_an_ensemble_is_judged_as_one_and_by_its_members(
    two_members: list[str], rankings: Path
) -> None:
    alone = [
        evaluate.main(EvaluateConfig(data=str(rankings), reward=path, max_length=64))
        for path in two_members
    ]
    both = evaluate.main(
        EvaluateConfig(data=str(rankings), reward=",".join(two_members), max_length=64)
    )
    assert both["ensemble"]["members"] == 2
    assert both["ensemble"]["member_accuracy"] == pytest.approx([e["accuracy"] for e in alone])
    assert both["ensemble"]["uncertainty"] > 0
    assert both["ensemble"]["accuracy_where_sure"] > both["ensemble"]["accuracy_where_unsure"]
    assert both["slices"]["rater"]["r"]["pairs"] == both["pairs"]
    assert sum(each["pairs"] for each in both["calibration"]) == both["pairs"]


def test_axes_come_along_from_an_export(tmp_path: Path) -> None:
    row = {
        "messages": USER,
        "candidates": [{"id": "x", "text": "one"}, {"id": "y", "text": "two"}],
        "rankings": [
            {
                "rater": "r", "ranks": {"x": 1, "y": 2}, "strength": 3,
                "axes": {"helpful": {"x": 5, "y": 2}, "honest": 4, "harmless": {"y": 1}},
            }
        ],
    }  # fmt: skip
    file = tmp_path / "rankings.test.jsonl"
    file.write_text(json.dumps(row) + "\n")
    (found,) = read_rankings(file)["test"]
    assert found.axes == {"helpful": (5.0, 2.0), "harmless": (None, 1.0)}
    assert found.strength == 3


def test_a_file_of_ties_alone_has_nothing_to_judge(two_members: list[str], tmp_path: Path) -> None:
    file = tmp_path / "ties.jsonl"
    file.write_text(
        json.dumps({"prompt": "tell", "candidates": ["a", "b"], "ranks": [1, 1]}) + "\n"
    )
    with pytest.raises(TrainerError, match="no pair of which one is preferred"):
        evaluate.main(EvaluateConfig(data=str(file), reward=two_members[0]))
