"""The story-teller's tokenizer, and conversations as rows of its tokens."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from demo import stories
from trainer.data.examples import Messages

BOS, END, PAD = "<|bos|>", "<|end|>", "<|pad|>"

ROLES = ("system", "user", "assistant")

ROLE_TOKENS = tuple(f"<|{role}|>" for role in ROLES)

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

CONTEXT = 512

SYSTEM_MESSAGES = (
    "You tell little stories.",
    "You are a helpful assistant.",
    "You are a story-teller who follows what is asked.",
)


@dataclass(frozen=True)
class Row:
    """One conversation as tokens, and which of them are learned (the assistant's, with their end)."""

    ids: list[int]
    learned: list[bool]


def make_tokenizer(corpus: list[stories.Story], vocabulary: int) -> Any:
    """Return a byte-level BPE tokenizer of the corpus: it reads whatever is typed, and has no unknown."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    learner = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, END, *ROLE_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Every word of the grammar is in the first few thousand stories many times over.
    texts = (text for each in corpus[:5_000] for text in (each.prompt, each.response))
    plain.train_from_iterator(texts, learner)
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=list(ROLE_TOKENS),
        chat_template=TEMPLATE,
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def as_messages(story: stories.Story) -> Messages:
    """Return the story as a conversation of two turns."""
    return [
        {"role": "user", "content": story.prompt},
        {"role": "assistant", "content": story.response},
    ]


def conversations(corpus: list[stories.Story], rng: random.Random) -> list[Messages]:
    """Return one conversation a story; one in 25 has a system message, one in 25 an earlier turn."""
    result = []
    for number, story in enumerate(corpus):
        messages = as_messages(story)
        if number % 25 == 0:
            messages = [{"role": "system", "content": rng.choice(SYSTEM_MESSAGES)}, *messages]
        elif number % 25 == 1:
            messages = [*as_messages(corpus[number - 1]), *messages]
        result.append(messages)
    return result


def encode(tokenizer: Any, dialogues: list[Messages]) -> list[Row]:
    """Return the rows that the chat template gives to these conversations, in a tenth of its time."""
    flat = [message["content"] for messages in dialogues for message in messages]
    contents = iter(tokenizer(flat, add_special_tokens=False)["input_ids"])
    role_ids = dict(zip(ROLES, tokenizer.convert_tokens_to_ids(list(ROLE_TOKENS)), strict=True))
    rows = []
    for messages in dialogues:
        ids, learned = [tokenizer.bos_token_id], [False]
        for message in messages:
            content = next(contents)
            assistant = message["role"] == "assistant"
            if assistant:
                content = [*content, tokenizer.eos_token_id]
            ids += [role_ids[message["role"]], *content]
            learned += [False, *[assistant] * len(content)]
        rows.append(Row(ids[:CONTEXT], learned[:CONTEXT]))
    return rows


def batches(rows: list[Row], size: int, rng: random.Random) -> Iterator[list[Row]]:
    """Yield batches for ever: each pass in a new order, rows of like length together (less padding)."""
    while True:
        order = list(range(len(rows)))
        rng.shuffle(order)
        # Sorting within 32 batches wastes hardly any padding, and keeps the order random at large.
        for start in range(0, len(order), size * 32):
            some = sorted(order[start : start + size * 32], key=lambda index: len(rows[index].ids))
            groups = [some[first : first + size] for first in range(0, len(some), size)]
            rng.shuffle(groups)
            yield from ([rows[index] for index in group] for group in groups)
