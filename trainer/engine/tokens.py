"""Tokenizers, and conversations as padded rows of token ids."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trainer.data.examples import Messages
from trainer.engine.conversations import RefusedConversation, Template
from trainer.engine.protocols import Tokenizer
from trainer.engine.templates import control_pattern, end_of_turn, fit_templates, shape_of
from trainer.errors import TrainerError, first_line

PAD = "<|pad|>"
# What an encoder counts.
PROMPT_CUT = "prompt cut at its start"
RESPONSE_CUT = "response cut at its end"
PROMPT_TOKENS_CUT, RESPONSE_TOKENS_CUT = "prompt tokens cut", "response tokens cut"
CUTS = (PROMPT_CUT, RESPONSE_CUT, PROMPT_TOKENS_CUT, RESPONSE_TOKENS_CUT)


def load_tokenizer(path: str) -> Tokenizer:
    """A tokenizer with an end, a padding token that is no end, and a chat template that ends in one.

    Padding with an end would teach a model never to end and make a reward model read the wrong position.
    Raises TrainerError where there is none at this path, or it has no end token.
    """
    from transformers import AutoTokenizer

    try:
        loaded: Any = AutoTokenizer.from_pretrained(path)
    except Exception as error:
        raise TrainerError(f"{path}: no tokenizer can be loaded: {first_line(error)}") from None
    if loaded.eos_token_id is None:
        raise TrainerError(f"{path}: its tokenizer has no end-of-sequence token")
    if isinstance(loaded.chat_template, dict) and "default" not in loaded.chat_template:
        names = ", ".join(sorted(loaded.chat_template))
        raise TrainerError(f"{path}: none of its chat templates ({names}) is named default")
    tokenizer: Tokenizer = loaded
    fit_templates(tokenizer)
    if loaded.pad_token_id in (None, tokenizer.eos_token_id, end_of_turn(tokenizer)):
        tokenizer.add_special_tokens({"pad_token": PAD})
    return tokenizer


@dataclass(frozen=True)
class Rendered:
    """A conversation as the chat template writes it, and its tokens."""

    text: str
    ids: list[int]


@dataclass
class Encoder:
    """Conversations and responses as token ids, by stated rules, with what was cut counted.

    A prompt is the conversation up to where an answer starts; a response is what the chat template writes
    of it from there on, the end token of the turn last. Both together are the tokens that plain
    `apply_chat_template` gives the whole conversation. Where the template does not write a response behind
    its prompt, or not all of it, the response is its own text's tokens and the end token, and is counted.
    For a reward model, which is `reading`, the prompt is then what both have in common: it need not be what
    a policy answers to.

    Tokens that steer (`<|im_end|>`) are steering where the template writes them, and text where people do.

    A prompt that does not fit beside the response in `max_length` loses its start, but for a BOS; a
    response that does not fit alone loses its end, and its end token.
    """

    tokenizer: Tokenizer
    max_length: int
    reading: bool = False
    cut: dict[str, int] = field(default_factory=dict)
    end: int = field(init=False)
    template: Template = field(init=False)

    def __post_init__(self) -> None:
        """Find the end of a turn, and what must not be read in people's texts."""
        self.end = end_of_turn(self.tokenizer)
        self.template = Template(self.tokenizer)
        self._control = control_pattern(self.tokenizer)
        self._asked: tuple[Messages, Rendered] | None = None

    def prompt(self, messages: Messages, max_tokens: int) -> list[int]:
        """The prompt's tokens, at most `max_tokens` of them: a BOS, and its last ones.

        Raises RefusedConversation where the chat template does not take it.
        """
        return self._fit(self._prompt(messages).ids, max_tokens)

    def pair(self, messages: Messages, text: str) -> tuple[list[int], list[int]]:
        """(prompt, response) tokens that fit together."""
        prompt, response = self._split(messages, text)
        if not text or len(response) == 1:
            self._count("empty response")
        longest = self.max_length - 1  # at least one token of the prompt stays
        if len(response) > longest:
            self._count(RESPONSE_CUT)
            self._count(RESPONSE_TOKENS_CUT, len(response) - longest)
            response = response[:longest]
        return self._fit(prompt, self.max_length - len(response)), response

    def _split(self, messages: Messages, text: str) -> tuple[list[int], list[int]]:
        """(prompt, response) tokens, however long."""
        prompt = self._prompt(messages)
        whole = self._render([*messages, {"role": "assistant", "content": text}], opens=False)
        written = whole.text[count_common(prompt.text, whole.text) :]
        follows = self.reading or whole.text.startswith(prompt.text)
        complete = _without_blanks(text) in _without_blanks(written)
        if follows and complete and whole.ids[-1:] == [self.end]:
            # A token may reach over the place where they meet: it is the response's.
            shared = count_common(prompt.ids, whole.ids[:-1])
            return whole.ids[:shared], whole.ids[shared:]
        self._count("response that the chat template writes otherwise")
        return prompt.ids, [*self._text(text), self.end]

    def _text(self, text: str) -> list[int]:
        """The tokens of a text alone. Raises RefusedConversation where they would steer."""
        if not self._control.search(text):
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        ids: list[int] = list(encoded["input_ids"])
        spelt = {
            token.content: number for number, token in self.tokenizer.added_tokens_decoder.items()
        }
        for found in self._control.findall(text):
            if spelt[found] in ids:
                raise RefusedConversation(
                    f"its tokenizer cannot read {found!r} in a response as text", text
                )
        return ids

    def _prompt(self, messages: Messages) -> Rendered:
        # The candidates of a ranking come one behind the other.
        if self._asked is None or self._asked[0] != messages:
            self._asked = messages, self._render(messages, opens=True)
        return self._asked[1]

    def _render(self, messages: Messages, *, opens: bool) -> Rendered:
        """Raises RefusedConversation where the template refuses: a role, two turns of one."""
        text: str = self.template.render(messages, opens=opens)
        if not any(self._control.search(each) for turn in messages for each in turn.values()):
            encoded = self.tokenizer(text, add_special_tokens=False)
        else:
            encoded = self.template.render(
                messages, opens=opens, tokenize=True, sanitize_control_tokens=True
            )
        return Rendered(text, list(encoded["input_ids"]))

    def _fit(self, ids: list[int], max_tokens: int) -> list[int]:
        if len(ids) <= max_tokens:
            return ids
        self._count(PROMPT_CUT)
        self._count(PROMPT_TOKENS_CUT, len(ids) - max(max_tokens, 0))
        bos = ids[:1] if ids[0] == self.tokenizer.bos_token_id and max_tokens > 1 else []
        kept = max_tokens - len(bos)
        return [*bos, *ids[-kept:]] if kept > 0 else []

    def _count(self, reason: str, by: int = 1) -> None:
        self.cut[reason] = self.cut.get(reason, 0) + by


def continues_prompts(tokenizer: Tokenizer) -> bool:
    """Whether the chat template writes a finished answer behind what opens one."""
    shape = shape_of(tokenizer)
    return shape is None or shape.continues


def _without_blanks(text: str) -> str:
    return "".join(text.split())


def count_common(one: Sequence[object], other: Sequence[object]) -> int:
    """How many tokens two rows, or characters two texts, have in common before they part."""
    pairs = zip(one, other, strict=False)
    return next((count for count, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def decode_responses(tokenizer: Tokenizer, responses: Sequence[Sequence[int]]) -> list[str]:
    """The texts of responses without their end tokens: what a template would write again as these tokens.

    What the template itself writes before and behind an answer (Mistral's spaces, Qwen's empty thought) is
    no part of it. Nothing is tidied.
    """
    shape = shape_of(tokenizer)
    opening, closing = ("", "") if shape is None else (shape.opening, shape.closing or "")
    steering = any(token.content in opening for token in tokenizer.added_tokens_decoder.values())
    before: list[int] = []
    if steering:  # which is not all in the texts: it is left out as tokens
        before, opening = list(tokenizer(opening, add_special_tokens=False)["input_ids"]), ""
    texts = tokenizer.batch_decode(
        [
            [*row[len(before) :]] if list(row[: len(before)]) == before else [*row]
            for row in responses
        ],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    return [text.removeprefix(opening).removesuffix(closing) for text in texts]


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
