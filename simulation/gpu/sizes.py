"""The sizes that bench/gpu.py tries: how much work they are, and models and texts of them.

The models are Llama-style with random weights: nothing of speed or exactness depends on what they know. The
tokenizer's words are numbers, one token each, so that every length is known.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch

from trainer.data.examples import Demonstration, Messages, Ranking

TEMPLATE = (
    "{% for m in messages %}{{ '<user> ' if m['role'] == 'user' else '<assistant> ' }}{{ m['content'] }}"
    "{{ ' <end> ' }}{% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"
)
# Dense bfloat16 products with float32 sums, by the makers' data sheets, in floating-point operations a
# second. The sheets print twice as much "with sparsity" for most of them.
PEAKS = (
    (r"\bB200\b", 2250e12),
    (r"\bH200\b", 989.4e12),
    (r"\bH100 NVL\b", 835e12),
    (r"\bH100 PCIe\b", 756e12),
    (r"\bG?H100\b|\bGH200\b", 989.4e12),
    (r"\bA100\b", 312e12),
    (r"\bA30\b", 165e12),
    (r"\bA10\b", 125e12),
    (r"\bL40S\b", 362e12),
    (r"\bL40\b", 181e12),
    (r"\bL4\b", 121e12),
    (r"\bRTX 4090\b", 165.2e12),
)


class Shape(NamedTuple):
    """A model's sizes, and those of the work that it is given."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int
    prompt: int  # words
    response: int
    batch: int
    steps: int


SHAPES = {
    # For tests, on a CPU.
    "tiny": Shape(16, 2, 2, 2, 32, 64, 6, 5, 4, 2),
    # For identities: the CPU does the same, and a GPU's time is short.
    "small": Shape(256, 4, 8, 4, 1024, 4096, 64, 48, 4, 4),
    # GPT-2's size with Llama's parts: 110 million weights.
    "0.1B": Shape(768, 12, 12, 12, 2048, 32_000, 256, 256, 32, 12),
    # Llama-3.2-1B with a vocabulary of 32,000: 1.04 thousand million weights.
    "1B": Shape(2048, 16, 32, 8, 8192, 32_000, 256, 256, 32, 8),
}
PPO_EPOCHS = 4


def peak_of(name: str) -> float | None:
    """The peak of a card by its name; None where the table has none, as for a slice of a card (MIG)."""
    if "MIG" in name:
        return None
    return next((peak for pattern, peak in PEAKS if re.search(pattern, name)), None)


def forward_flops(shape: Shape, rows: int, length: int, read: int) -> float:
    """Floating-point operations of a forward pass over rows of one length, `read` logits in each.

    Chowdhery et al. 2022 (PaLM), appendix B: a token of a decoder costs 2 N for its N weights that
    multiply, and 4 L H Q T in the attention over T tokens (6 N and 12 L H Q T with the backward pass); as
    there, the attention is counted whole, though half of it is masked. N leaves the embedding out, which is
    looked up; the head counts where its logits are wanted. What is computed twice, or not at all, changes
    nothing: it is the work that the formula asks for.
    """
    key_values = shape.hidden * shape.kv_heads // shape.heads
    layer = 2 * shape.hidden**2 + 2 * shape.hidden * key_values + 3 * shape.hidden * shape.inner
    tokens = rows * length
    weights = 2.0 * shape.layers * layer * tokens
    attention = 4.0 * shape.layers * shape.hidden * length * tokens
    return weights + attention + 2.0 * shape.hidden * shape.vocabulary * rows * read


def step_flops(stage: str, shape: Shape, length: int) -> float:
    """Of one step of a stage. A backward pass is twice its forward pass.

    A comparison's sides are two rows, as the papers have them, though the trainer may read a prompt once.
    PPO: a pass each to sample, for the old log-probabilities, the reference's, the values and the reward;
    and in every epoch the policy and the value model with their backward passes.
    """
    plain = forward_flops(shape, shape.batch, length, 0)
    read = forward_flops(shape, shape.batch, length, shape.response)
    if stage == "ppo":
        return 3 * read + 2 * plain + PPO_EPOCHS * 3 * (read + plain)
    return 3 * {"sft": read, "reward": 2 * plain, "dpo": 2 * read}[stage]


def make_models(size: str, folder: Path, device: torch.device) -> None:
    """A policy and a reward model of a size, with a tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        LlamaForSequenceClassification,
        PreTrainedTokenizerFast,
    )

    shape = SHAPES[size]
    names = ["<pad>", "<end>", "<user>", "<assistant>", "<unk>"]
    names += [str(number) for number in range(shape.vocabulary - len(names))]
    plain = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", eos_token="<end>", unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>"], chat_template=TEMPLATE,
    )  # fmt: skip
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads, max_position_embeddings=1024, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=None, eos_token_id=1, num_labels=1,
    )  # fmt: skip
    for name, kind in (("policy", LlamaForCausalLM), ("reward", LlamaForSequenceClassification)):
        torch.manual_seed(0)
        with torch.device(device):  # a thousand million random numbers take a CPU long
            model: Any = kind(config)
        model.save_pretrained(folder / size / name)
        tokenizer.save_pretrained(folder / size / name)


def write(shape: Shape, number: int, words: int) -> str:
    """Some words, always the same for a number."""
    stream = torch.Generator().manual_seed(number)
    drawn = torch.randint(0, shape.vocabulary - 5, (words,), generator=stream)
    return " ".join(map(str, drawn.tolist()))


def make_prompt(shape: Shape, number: int) -> Messages:
    """A question of so many words."""
    return [{"role": "user", "content": write(shape, number, shape.prompt)}]


def make_rankings(shape: Shape, count: int) -> list[Ranking]:
    """Pairs of responses of full length."""
    return [
        Ranking(
            make_prompt(shape, number),
            [write(shape, 10**6 + 2 * number + side, shape.response - 1) for side in (0, 1)],
            [1, 2],
        )
        for number in range(count)
    ]


def make_demonstrations(shape: Shape, count: int) -> list[Demonstration]:
    """Conversations of one turn."""
    said = [write(shape, 10**7 + number, shape.response - 1) for number in range(count)]
    return [
        Demonstration([*make_prompt(shape, number), {"role": "assistant", "content": text}])
        for number, text in enumerate(said)
    ]
