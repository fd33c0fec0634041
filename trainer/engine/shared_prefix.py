"""Prompts and their responses in one forward pass: what responses share is read once.

A prompt and its responses make one row: prompt, first response, second response, … Every response's
positions go on from the prompt's end, and its tokens see the prompt and themselves alone, so that each
state is what it would be in a row of its own. With short responses to long prompts this is nearly K times
less work for K candidates. Models that take no such mask (recurrent layers, positions from the mask, some
attention kernels) get a row for each response instead; `probe_capabilities` finds out, by trying.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.engine.length_batching import cost_of
from trainer.engine.protocols import Model
from trainer.engine.tokens import pad_right

# A prompt's tokens, and its responses'.
PromptResponses = tuple[Sequence[int], Sequence[Sequence[int]]]
Position = tuple[int, int]  # row and column


@dataclass(frozen=True)
class SharedPrefixBatch:
    """A batch of R rows of at most L tokens, in which N responses with M tokens in all stand."""

    ids: Tensor  # (R, L)
    positions: Tensor  # (R, L)
    # (R, 1, L, L) to be added to the attention's scores. None where a token sees all before it: padding is
    # on the right, where nobody sees it. Packed documents tell themselves apart by their positions.
    mask: Tensor | None
    ends: tuple[Tensor, Tensor]  # (N,) row and column of each response's last token
    before: tuple[Tensor, Tensor]  # (M,) row and column of what stands before each response token
    targets: Tensor  # (M,) the response tokens
    segment_ids: Tensor  # (M,) the response that each is of, counted from 0 over the batch


def build_batch(
    groups: Sequence[PromptResponses], model: Model, pad: int, *, always_share: bool = False
) -> SharedPrefixBatch:
    """The groups as rows, their prompts shared where the model can read them so and it is less work.

    `always_share` shares them whatever the work, for a trial.
    """
    device = next(model.parameters()).device
    rows: Sequence[PromptResponses] = [row for group in groups for row in one_row_each(group)]
    longest_row = getattr(model, "longest_shared_row", None) or longest(groups)
    if always_share:
        rows = groups
    elif getattr(model, "reads_shared_prefix", False) and longest(groups) <= longest_row:
        # All or none: a few long rows would pad every row of the others to their length.
        width = int(model.config.get_text_config().hidden_size)
        rows = min(rows, groups, key=lambda some: cost_of(len(some), longest(some), width))
    ids, real = pad_right(
        [[*prompt, *(token for each in responses for token in each)] for prompt, responses in rows],
        pad,
        device,
    )
    shared = any(len(responses) > 1 for _, responses in rows)
    along = torch.arange(ids.shape[1], device=device)
    # A shared row may be longer than the model's window, though no position is: its padding is at 0.
    positions = torch.zeros_like(ids) if shared else along.expand(ids.shape)
    # (R, L) 0: the prompt, else the response's number in its row
    segments = torch.zeros_like(ids) if shared else None
    ends: list[Position] = []
    before: list[Position] = []
    targets: list[int] = []
    segment_ids: list[int] = []
    for row, (prompt, responses) in enumerate(rows):
        start = len(prompt)
        if segments is not None:
            positions[row, :start] = along[:start]
        for number, response in enumerate(responses, start=1):
            end = start + len(response)
            if segments is not None:
                segments[row, start:end] = number
                positions[row, start:end] = along[len(prompt) : len(prompt) + len(response)]
            before += [(row, len(prompt) - 1), *((row, each) for each in range(start, end - 1))]
            targets += response
            segment_ids += [len(ends)] * len(response)
            ends.append((row, end - 1))
            start = end
    return SharedPrefixBatch(
        ids=ids,
        positions=positions,
        mask=None if segments is None else shared_prefix_mask(segments, real),
        ends=columns(ends, device),
        before=columns(before, device),
        targets=torch.tensor(targets, device=device),
        segment_ids=torch.tensor(segment_ids, device=device),
    )


def build_packed_batch(
    rows: Sequence[Sequence[PromptResponses]], device: torch.device, pad: int
) -> SharedPrefixBatch:
    """Rows in which several examples of one response each stand one behind the other, blind to each
    other."""
    flat = [[[*prompt, *response] for prompt, (response,) in row] for row in rows]
    ids, _ = pad_right([[t for each in row for t in each] for row in flat], pad, device)
    positions = torch.zeros_like(ids)
    ends: list[Position] = []
    before: list[Position] = []
    targets: list[int] = []
    segment_ids: list[int] = []
    for row, (examples, texts) in enumerate(zip(rows, flat, strict=True)):
        start = 0
        for (prompt, (response,)), text in zip(examples, texts, strict=True):
            end = start + len(text)
            positions[row, start:end] = torch.arange(len(text), device=device)
            before += [(row, each - 1) for each in range(start + len(prompt), end)]
            targets += response
            segment_ids += [len(ends)] * len(response)
            ends.append((row, end - 1))
            start = end
        # The padding behind is one more document.
        positions[row, start:] = torch.arange(ids.shape[1] - start, device=device)

    return SharedPrefixBatch(
        ids=ids,
        positions=positions,
        mask=None,
        ends=columns(ends, device),
        before=columns(before, device),
        targets=torch.tensor(targets, device=device),
        segment_ids=torch.tensor(segment_ids, device=device),
    )


def columns(pairs: Sequence[Position], device: torch.device) -> tuple[Tensor, Tensor]:
    """(N,) rows and (N,) columns of (row, column) pairs."""
    both = torch.tensor(pairs, device=device)
    return both[:, 0], both[:, 1]


def fill_rows(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Which items share a row of at most `row_length`: first fit, the longest items first.

    Never more than 11/9 of the fewest possible rows, and 6/9 of one (Dosa 2007).
    """
    rows: list[list[int]] = []
    space: list[int] = []  # what is left of each row
    for item in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        row = next((n for n, left in enumerate(space) if left >= lengths[item]), None)
        if row is None:
            rows.append([])
            space.append(row_length)
            row = -1
        rows[row].append(item)
        space[row] -= lengths[item]
    return rows


def one_row_each(group: PromptResponses) -> list[PromptResponses]:
    """A row for each response."""
    prompt, responses = group
    return [(prompt, [response]) for response in responses]


def longest(rows: Sequence[PromptResponses]) -> int:
    """Tokens of the longest row."""
    return max(len(prompt) + sum(map(len, responses)) for prompt, responses in rows)


def shared_prefix_mask(segments: Tensor, real: Tensor) -> Tensor:
    """(R, 1, L, L) 0 where a token sees another, and minus infinity's stand-in elsewhere."""
    length = segments.shape[1]
    columns = torch.arange(length, device=segments.device)
    earlier = columns[None, :] <= columns[:, None]
    # A token sees the prompt, and its own response.
    own = (segments[:, None, :] == 0) | (segments[:, None, :] == segments[:, :, None])
    seen = earlier & own & real.bool()[:, None, :]
    seen |= torch.eye(length, dtype=torch.bool, device=segments.device)  # padding sees itself
    mask = torch.zeros(seen.shape, device=segments.device)
    return mask.masked_fill_(~seen, torch.finfo(torch.float32).min)[:, None]
