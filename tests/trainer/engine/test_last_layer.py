"""A last layer that is worked out only where it is read teaches and says the same."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from trainer.engine import capabilities, forward, last_layer, models, responses, shared_prefix

CPU = torch.device("cpu")
PROMPT = list(range(3, 15))
# The first place that is read, the prompt's last, is read for both responses.
TREES: list[shared_prefix.PromptResponses] = [
    (PROMPT, [[4, 5, 2], [6, 2]]),
    (PROMPT[:5], [[7, 8, 9, 2]]),
]


@pytest.fixture
def policy() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 32}
    config = LlamaConfig(**sizes, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0)
    return capabilities.probe_capabilities(LlamaForCausalLM(config))


def learn(model: Any) -> list[Tensor]:
    """Logits before each response token, and the gradients of a loss of them."""
    model.zero_grad()
    logits = responses.response_logits(model, shared_prefix.build_batch(TREES, model, 0))
    logits.log_softmax(-1)[:, 3].square().sum().backward()
    return [logits.detach(), *(each.grad.clone() for each in model.parameters())]


def test_logits_and_all_gradients_are_those_of_the_whole_layer(policy: Any) -> None:
    assert policy.last_layer.parts == ["self_attn.q_proj", "self_attn.o_proj", "mlp"]
    narrowed = learn(policy)
    policy.last_layer = None
    for one, other in zip(narrowed, learn(policy), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_the_last_layer_works_out_what_is_read_and_no_more(policy: Any) -> None:
    rows: dict[int, int] = {}
    for number, layer in enumerate(policy.model.layers):
        layer.mlp.gate_proj.register_forward_hook(
            lambda _, given, __, number=number: rows.update({number: given[0].shape[:2].numel()})
        )
    batch = shared_prefix.build_batch(TREES, policy, 0)
    responses.response_logits(policy, batch)
    # 9 response tokens; two of them come after the same place.
    assert rows == {0: batch.ids.numel(), 1: 8}
    assert policy.last_layer.rows is None
    forward.hidden_states(policy, batch.ids, batch.mask, batch.positions)
    assert rows[1] == batch.ids.numel()


def test_where_nearly_all_is_read_nothing_is_left_out(policy: Any) -> None:
    states = torch.zeros(2, 5, 32)
    with policy.last_layer.compute_only(torch.arange(10), (2, 5)):
        assert policy.last_layer.gather_rows(policy, (states,)) is None


def test_parts_of_other_names_stay_whole() -> None:
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 32, "n_positions": 32}
    config = GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, attn_pdrop=0.0, resid_pdrop=0.0)
    config.embd_pdrop = 0.0
    model: Any = models.without_dropout(
        capabilities.probe_capabilities(GPT2LMHeadModel(config).eval())
    )
    assert model.last_layer.parts == ["mlp"]
    narrowed = learn(model)
    model.last_layer = None
    for one, other in zip(narrowed, learn(model), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_model_whose_parts_are_not_found_is_not_narrowed(policy: Any) -> None:
    policy.model.layers[-1] = torch.nn.Identity()
    assert last_layer.find_last_layer(policy) is None
