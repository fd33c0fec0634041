"""Examples as tokens, with what the chat template refuses left out, and what was cut counted, by row."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from trainer.data.examples import Demonstration, Prompt, Ranking, Tally
from trainer.data.values import JsonObject
from trainer.engine.conversations import RefusedConversation
from trainer.engine.tokens import PROMPT_TOKENS_CUT, RESPONSE_TOKENS_CUT, Encoder
from trainer.errors import TrainerError

REFUSED = "refused by the chat template"
TOKENS = (PROMPT_TOKENS_CUT, RESPONSE_TOKENS_CUT)

AnyExample = TypeVar("AnyExample", bound=Ranking | Demonstration | Prompt)
Encoded = TypeVar("Encoded")


def encode_each(
    encoder: Encoder,
    examples: Iterable[AnyExample],
    encode: Callable[[AnyExample], Encoded],
    tally: Tally,
) -> list[Encoded | None]:
    """Every example as tokens; None, counted and with its place, where the template refuses it.

    An example of several candidates is one row, however often its prompt was cut.
    """
    rows: list[Encoded | None] = []
    for example in examples:
        before = encoder.cut.copy()
        try:
            rows.append(encode(example))
        except RefusedConversation as refusal:
            tally.add(REFUSED, place=f"{example.source}: {refusal.reason}")
            rows.append(None)
        else:
            for name, count in encoder.cut.items():
                more = count - before.get(name, 0)
                tally.add(name, more if name in TOKENS else min(more, 1))
    return rows


def encode_all(
    encoder: Encoder,
    examples: Sequence[AnyExample],
    encode: Callable[[AnyExample], Encoded],
    tally: Tally,
) -> list[Encoded]:
    """Those that the template takes."""
    return [row for row in encode_each(encoder, examples, encode, tally) if row is not None]


def figures_of_left_out(tally: Tally, encoder: Encoder, max_length: int) -> JsonObject:
    """What a result says of rows that were left out or cut, and by what they were cut."""
    figures = tally.figures()
    if any(reason.endswith(TOKENS) for reason in tally.counts):
        by = "--max-length" if encoder.max_length == max_length else "what the model reads"
        figures["cut_to"] = f"{encoder.max_length} tokens: {by}"
    return figures


def nothing_left(path: str, what: str, tally: Tally) -> TrainerError:
    """Why a run has nothing to do."""
    said = tally.says()
    return TrainerError(f"{path}: has no {what}" + (f"; left out: {said}" if said else ""))
