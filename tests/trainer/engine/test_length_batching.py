"""Rows of like length go through a model together, and nothing of what it says depends on that."""

from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.engine import models, tokens
from trainer.engine.length_batching import cost_of, group_by_length
from trainer.rl import rollout

LENGTHS = st.lists(st.integers(1, 400), min_size=1, max_size=8)


def cost(groups: list[list[int]], width: int, call: int) -> int:
    """What passes over groups of these lengths cost in all."""
    passes = (cost_of(len(group), max(group), width) for group in groups)
    return sum(passes) + len(groups) * cost_of(1, call, width)


@given(LENGTHS, st.integers(1, 8), st.sampled_from([8, 64]), st.sampled_from([0, 20, 500]))
def test_groups_hold_every_row_once_at_the_least_cost(
    lengths: list[int], most: int, width: int, call: int
) -> None:
    groups = group_by_length(lengths, most, width, call=call)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    assert max(map(len, groups)) <= most
    # Every way to cut the rows in order of length, tried.
    ordered, count = sorted(lengths), len(lengths)
    ways = (
        [ordered[start:end] for start, end in zip((0, *cuts), (*cuts, count), strict=True)]
        for number in range(count)
        for cuts in combinations(range(1, count), number)
    )
    allowed = (way for way in ways if max(map(len, way)) <= most)
    least = min(cost(way, width, call) for way in allowed)
    assert cost([[lengths[row] for row in group] for group in groups], width, call) == least


def test_short_and_long_prompts_apart_are_answered_as_they_are_together(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokens.load_tokenizer(tiny_model)
    policy = models.load_policy(tiny_model, tokenizer, torch.device("cpu"))
    prompts = [[5] * 3, [6] * 90, [7] * 4, [8] * 80, [9] * 2]
    draws = torch.rand(6, len(prompts), generator=torch.Generator().manual_seed(1))
    how: dict[str, Any] = {"length": 6, "temperature": 1.0, "end": 2, "pad": 0}
    together = rollout.sample_together(policy, prompts, draws, **how)
    widths = []
    plain = rollout.sample_together

    def watched(policy: Any, prompts: Any, *given: Any, **named: Any) -> rollout.Rollout:
        widths.append(sorted(map(len, prompts)))
        return plain(policy, prompts, *given, **named)

    monkeypatch.setattr(rollout, "sample_together", watched)
    monkeypatch.setattr(rollout, "TOKENS_OF_A_STEP", 5)
    apart = rollout.sample(policy, prompts, draws=draws, **how)
    assert widths == [[2, 3, 4], [80, 90]]
    for one, other in zip(vars(together).values(), vars(apart).values(), strict=True):
        assert torch.equal(one, other)
