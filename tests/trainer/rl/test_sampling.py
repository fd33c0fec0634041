"""Every sampled token is the one that a plain forward pass over its row alone gives with the same draw."""

import copy
from typing import Any

import pytest
import torch

from tests.trainer.families import make_policy
from tests.trainer.rl import plain
from tests.trainer.rl.plain import rows_in
from trainer.engine.capabilities import probe_sampling
from trainer.engine.length_batching import group_by_length
from trainer.rl.rollout import TOKENS_OF_A_STEP, sample, sample_together

# Positions that are relative, learned, learned with an offset, a slope of attention; and a state without
# positions, which padding on the left would spoil and which is sampled without a cache.
FAMILIES = pytest.mark.parametrize("family", ["Llama", "GPT2", "OPT", "Bloom", "Mamba"])
SIZES = (3, 17, 1, 9, 30, 5, 12, 22, 2, 7)
LENGTH = 12
ENDS = [2, 7, 11, 15, 20]
KNOWN = 28  # of a vocabulary of 64


def draw_prompts() -> list[list[int]]:
    stream = torch.Generator().manual_seed(2)
    return [torch.randint(3, KNOWN, (size,), generator=stream).tolist() for size in SIZES]


def make_both(family: str) -> tuple[Any, Any]:
    """The policy as a run has it, and as it was, in double precision."""
    policy = make_policy(family).eval()
    alone = copy.deepcopy(policy).double()
    probe_sampling(policy, family)
    return policy, alone


@FAMILIES
def test_sampled_tokens_are_those_of_plain_forward_passes(family: str) -> None:
    policy, alone = make_both(family)
    prompts = draw_prompts()
    draws = torch.rand((len(prompts), LENGTH), generator=torch.Generator().manual_seed(5)).T
    expected = [
        (prompt, plain.sample(alone, prompt, draws[:, row].tolist(), 0.7, ENDS, KNOWN))
        for row, prompt in enumerate(prompts)
    ]
    # Rows leave at different times, and some never end.
    assert len({len(response) for _, response in expected}) >= 4
    assert any(response[-1] not in ENDS for _, response in expected)
    settings: Any = {"length": LENGTH, "temperature": 0.7, "end": ENDS, "pad": 0, "known": KNOWN}
    stream = torch.Generator().manual_seed(5)
    for rollout in (
        sample(policy, prompts, draws=draws, **settings),
        sample(policy, prompts, stream=stream, **settings),
        sample_together(policy, prompts, draws, **settings),  # all lengths in one batch
    ):
        assert rows_in(rollout) == expected
        assert rollout.ended.tolist() == [response[-1] in ENDS for _, response in expected]
        assert rollout.length == max(len(response) for _, response in expected)


def test_prompts_that_are_answered_in_groups_of_like_length_keep_their_draws() -> None:
    policy, alone = make_both("Llama")
    stream = torch.Generator().manual_seed(2)
    prompts = [
        torch.randint(3, KNOWN, (size,), generator=stream).tolist()
        for size in (4, 300, 5, 3, 280, 4, 6, 5)
    ]
    assert len(group_by_length([*map(len, prompts)], 8, 32, call=TOKENS_OF_A_STEP * 4)) > 1
    draws = torch.rand((4, 8), generator=stream)
    rollout = sample(
        policy, prompts, length=4, temperature=1.0, end=ENDS, pad=0, known=KNOWN, draws=draws
    )
    assert rows_in(rollout) == [
        (prompt, plain.sample(alone, prompt, draws[:, row].tolist(), 1.0, ENDS, KNOWN))
        for row, prompt in enumerate(prompts)
    ]


def test_padding_lengthens_nothing_and_ends_alone_are_no_padding() -> None:
    """A token that is the padding's may be drawn: it counts, and its row goes on."""
    policy, alone = make_both("GPT2")
    prompts = draw_prompts()
    draws = torch.rand((LENGTH, len(prompts)), generator=torch.Generator().manual_seed(6))
    settings: Any = {"length": LENGTH, "temperature": 1.0, "end": 2, "pad": 5, "known": 8}
    rollout = sample_together(policy, prompts, draws, **settings)
    expected = [
        (prompt, plain.sample(alone, prompt, draws[:, row].tolist(), 1.0, [2], 8))
        for row, prompt in enumerate(prompts)
    ]
    assert any(5 in response[:-1] for _, response in expected)
    assert rows_in(rollout) == expected


def test_at_temperature_0_the_likeliest_tokens_are_taken() -> None:
    policy, alone = make_both("GPT2")
    prompts = draw_prompts()
    rollout = sample(
        policy, prompts, length=5, temperature=0, end=ENDS, pad=0, known=KNOWN,
        stream=torch.Generator().manual_seed(0),
    )  # fmt: skip
    for prompt, response in rows_in(rollout):
        ids = torch.tensor([prompt + response])
        logits = alone(input_ids=ids).logits[0, len(prompt) - 1 : -1, :KNOWN]
        assert response == logits.argmax(-1).tolist()
