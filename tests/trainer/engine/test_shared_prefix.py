"""A prompt read once for all of its responses gives what rows of their own would."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.engine import capabilities, models, responses, shared_prefix, tokens

CPU = torch.device("cpu")
TOKENS = st.lists(st.integers(3, 26), min_size=1, max_size=6)
TREES = st.lists(
    st.tuples(TOKENS, st.lists(TOKENS, min_size=1, max_size=4)), min_size=1, max_size=3
)


@pytest.fixture(scope="module")
def policy(tiny_model: str) -> Any:
    return capabilities.probe_capabilities(
        models.load_policy(tiny_model, tokens.load_tokenizer(tiny_model), CPU)
    )


@pytest.fixture(scope="module")
def reward_model(tiny_model: str) -> Any:
    tokenizer = tokens.load_tokenizer(tiny_model)
    return capabilities.probe_capabilities(
        models.load_reward_model(tiny_model, tokenizer, CPU, seed=0)
    )


def test_a_llama_reads_shared_prefixes_and_its_head_stands_alone(
    policy: Any, reward_model: Any
) -> None:
    assert policy.reads_shared_prefix
    assert policy.plain_head
    assert reward_model.reads_shared_prefix


@given(TREES)
@settings(max_examples=40, deadline=None)
def test_sharing_a_prompt_changes_no_reward_and_no_log_probability(
    policy: Any, reward_model: Any, groups: list[shared_prefix.PromptResponses]
) -> None:
    apart = [row for group in groups for row in shared_prefix.one_row_each(group)]
    with torch.no_grad():
        together = shared_prefix.build_batch(groups, reward_model, 0)
        rewards = responses.response_rewards(reward_model, together)
        wanted = responses.response_rewards(
            reward_model, shared_prefix.build_batch(apart, reward_model, 0)
        )
        assert torch.allclose(rewards, wanted, atol=1e-5)
        logprobs = responses.response_token_logprobs(
            policy, shared_prefix.build_batch(groups, policy, 0)
        )
        alone = responses.response_token_logprobs(
            policy, shared_prefix.build_batch(apart, policy, 0)
        )
        assert torch.allclose(logprobs, alone, atol=1e-5)
    assert together.targets.tolist() == [
        token for _, responses in groups for each in responses for token in each
    ]


def test_a_prompt_of_many_candidates_is_one_row(reward_model: Any) -> None:
    long = list(range(3, 23))
    batch = shared_prefix.build_batch([(long, [[4, 2], [5, 2], [6, 7, 2]])], reward_model, 0)
    assert batch.ids.shape == (1, 27)
    assert batch.positions[0, -3:].tolist() == [20, 21, 22]


def test_one_long_group_does_not_pad_the_rows_of_short_ones(reward_model: Any) -> None:
    # Alone the first would be shared and the second not: eight rows of 53 places, and one of 100.
    long, short = ([3] * 20, [[4] * 5] * 16), ([3], [[4] * 52] * 8)
    assert shared_prefix.build_batch([long], reward_model, 0).ids.shape == (1, 100)
    assert shared_prefix.build_batch([short], reward_model, 0).ids.shape == (8, 53)
    assert shared_prefix.build_batch([long, short], reward_model, 0).ids.shape == (24, 53)


def test_a_shared_row_may_be_longer_than_the_window_that_each_of_its_texts_fits() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_embd=32, n_layer=1, n_head=2, n_positions=24)
    model = models.without_dropout(capabilities.probe_capabilities(GPT2LMHeadModel(config).eval()))
    assert model.reads_shared_prefix
    long, short = ([3] * 20, [[4] * 4] * 6), ([5] * 20, [[6] * 3] * 6)
    with torch.no_grad():
        batch = shared_prefix.build_batch([long, short], model, 0)
        assert batch.ids.shape == (2, 44)
        shared = responses.response_token_logprobs(model, batch)
        rows = [row for group in (long, short) for row in shared_prefix.one_row_each(group)]
        apart = responses.response_token_logprobs(model, shared_prefix.build_batch(rows, model, 0))
    assert torch.allclose(shared, apart, atol=1e-5)


@given(st.lists(st.tuples(TOKENS, TOKENS), min_size=2, max_size=5))
@settings(max_examples=40, deadline=None)
def test_packed_documents_are_blind_to_each_other(
    policy: Any, sides: list[tuple[list[int], list[int]]]
) -> None:
    rows = [[(prompt, [response]) for prompt, response in sides]]
    with torch.no_grad():
        packed = responses.response_token_logprobs(
            policy, shared_prefix.build_packed_batch(rows, CPU, 0)
        )
        alone = responses.response_token_logprobs(
            policy, shared_prefix.build_batch(rows[0], policy, 0)
        )
        assert torch.allclose(packed, alone, atol=1e-5)
        # Another first document changes nothing of the others.
        changed = [[([9, 9, 9], [[8] * len(sides[0][1])]), *rows[0][1:]]]
        other = responses.response_token_logprobs(
            policy, shared_prefix.build_packed_batch(changed, CPU, 0)
        )
    count = len(sides[0][1])
    assert torch.allclose(packed[count:], other[count:], atol=1e-5)


@given(st.lists(st.integers(1, 50), max_size=60))
def test_rows_are_filled_with_every_item_once_and_never_too_full(lengths: list[int]) -> None:
    rows = shared_prefix.fill_rows(lengths, 50)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    assert all(sum(lengths[item] for item in row) <= 50 for row in rows)
    # No two rows could be one, but for at most one that is not half full.
    assert sum(sum(lengths[item] for item in row) <= 25 for row in rows) <= 1


def test_rows_longer_than_a_models_window_are_not_shared() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, sliding_window=40,
    )  # fmt: skip
    model = capabilities.probe_capabilities(MistralForCausalLM(config).eval())
    assert model.longest_shared_row == 40
    fits = shared_prefix.build_batch([([3] * 30, [[6, 2], [7, 2]])], model, 0)
    assert len(fits.ids) == 1
    longer = shared_prefix.build_batch([([3] * 37, [[6, 2], [7, 2]])], model, 0)
    assert len(longer.ids) == 2


def test_a_model_that_scales_its_logits_is_projected_by_itself() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=16, final_logit_softcapping=0.5,
    )  # fmt: skip
    model = capabilities.probe_capabilities(Gemma2ForCausalLM(config).eval())
    assert not model.plain_head
    with torch.no_grad():
        batch = shared_prefix.build_batch([([3, 4, 5], [[6, 2]])], model, 0)
        found = responses.response_token_logprobs(model, batch)
        logits = model(input_ids=torch.tensor([[3, 4, 5, 6]])).logits[0, 2:]
    wanted = logits.log_softmax(-1)[torch.arange(2), torch.tensor([6, 2])]
    assert torch.allclose(found, wanted, atol=1e-5)
