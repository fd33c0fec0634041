"""Tokenizers, and conversations as padded rows of token ids."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trainer.data.examples import Messages
from trainer.engine.protocols import Tokenizer
from trainer.errors import TrainerError, first_line

PAD = "<|pad|>"

# For tokenizers that bring no chat template. A stated format beats a guessed one.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}assistant: {{ message['content'] }}{{ eos_token }}\n"
    "{% else %}{{ message['role'] }}: {{ message['content'] }}\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def load_tokenizer(path: str) -> Tokenizer:
    """A tokenizer with an end, a padding token that is not the end, and a chat template.

    Padding with the end token would teach a model never to end and make a reward model read the wrong
    position. Raises TrainerError where there is none at this path, or it has no end token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:
        raise TrainerError(f"{path}: no tokenizer can be loaded: {first_line(error)}") from None
    if tokenizer.eos_token_id is None:
        raise TrainerError(f"{path}: its tokenizer has no end-of-sequence token")
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD})
    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN_TEMPLATE
    checked: Tokenizer = tokenizer
    return checked


def end_of_turn(tokenizer: Tokenizer) -> int:
    """The token that ends an assistant's turn in the chat template, which need not be the tokenizer's end.

    A template that ends its turns in plain text, or refuses the conversation, leaves the tokenizer's.
    """
    from jinja2 import TemplateError

    said = "answer"
    rendered: Any = tokenizer
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": said}]
    try:
        text: str = rendered.apply_chat_template(turns, tokenize=False)
    except TemplateError:
        return tokenizer.eos_token_id
    _, found, rest = text.rpartition(said)
    rest = rest.lstrip()
    ends = [
        (len(token.content), number)
        for number, token in rendered.added_tokens_decoder.items()
        if found and rest.startswith(token.content)
    ]
    return max(ends)[1] if ends else tokenizer.eos_token_id


@dataclass
class Encoder:
    """Conversations and responses as token ids, by stated rules, with what was cut counted.

    A response is its text's tokens and the end token: the one in which the chat template ends a turn. A
    prompt that does not fit beside the response in `max_length` loses its start; a response that does not
    fit alone loses its end, and its end token.
    """

    tokenizer: Tokenizer
    max_length: int
    cut: dict[str, int] = field(default_factory=dict)
    end: int = field(init=False)

    def __post_init__(self) -> None:
        """Find the end of a turn."""
        self.end = end_of_turn(self.tokenizer)

    def prompt(self, messages: Messages, max_tokens: int) -> list[int]:
        """The prompt's tokens, at most `max_tokens` of them: its last ones."""
        from jinja2 import TemplateError

        try:
            encoded = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=True
            )
        except TemplateError as error:  # a template may refuse a role, or two turns of one
            said = messages[-1]["content"][:60] if messages else ""
            raise TrainerError(
                f"the chat template refuses a conversation ({said!r}): {error}"
            ) from None
        ids: list[int] = list(encoded["input_ids"])
        if len(ids) > max_tokens:
            self._count("prompt cut at its start")
        return ids[-max_tokens:] if max_tokens > 0 else []

    def response(self, text: str) -> list[int]:
        """The response's tokens and the end token."""
        ids: list[int] = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if not ids:
            self._count("empty response")
        ids.append(self.end)
        longest = self.max_length - 1  # at least one token of the prompt stays
        if len(ids) > longest:
            self._count("response cut at its end")
        return ids[:longest]

    def pair(self, messages: Messages, text: str) -> tuple[list[int], list[int]]:
        """(prompt, response) tokens that fit together."""
        response = self.response(text)
        return self.prompt(messages, self.max_length - len(response)), response

    def _count(self, reason: str) -> None:
        self.cut[reason] = self.cut.get(reason, 0) + 1


def pad_right(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(B, L) tokens and mask."""
    width = max(map(len, rows))
    ids = [list(row) + [pad] * (width - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def pad_left(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(B, L) tokens and mask."""
    width = max(map(len, rows))
    ids = [[pad] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def positions_of(mask: Tensor) -> Tensor:
    """(B, L) positions that count only real tokens, wherever the padding is."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def same_tokens(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether two tokenizers give the same ids to the same conversations."""
    return bool(
        one.get_vocab() == other.get_vocab()
        and one.chat_template == other.chat_template
        and one.eos_token_id == other.eos_token_id
    )
