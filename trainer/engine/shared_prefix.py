"""Prompts and their responses in one forward pass: what responses share is read once.

A prompt and its responses make one row: prompt, first response, second response, … Every response's
positions go on from the prompt's end, and its tokens see the prompt and themselves alone, so that each
state is what it would be in a row of its own. With short responses to long prompts this is nearly K times
less work for K candidates. Models that take no such mask (recurrent layers, a sliding window, some
attention kernels) get a row for each response instead; `capabilities.explore` finds out, by trying.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.engine.length_batching import cost_of
from trainer.engine.tokens import pad_right

Tree = tuple[Sequence[int], Sequence[Sequence[int]]]  # a prompt's tokens, and its responses'

Place = tuple[int, int]  # row and column


@dataclass(frozen=True)
class Forest:
    """A batch of R rows of at most L tokens, in which N responses with M tokens in all stand."""

    ids: Tensor  # (R, L)
    positions: Tensor  # (R, L)
    # (R, 1, L, L) to be added to the attention's scores. None where a token sees all before it: padding is
    # on the right, where nobody sees it. Packed documents tell themselves apart by their positions.
    mask: Tensor | None
    ends: tuple[Tensor, Tensor]  # (N,) row and place of each response's last token
    before: tuple[Tensor, Tensor]  # (M,) row and place of what stands before each response token
    targets: Tensor  # (M,) the response tokens
    owners: Tensor  # (M,) the response that each is of


def plant(trees: Sequence[Tree], model: Any, pad: int) -> Forest:
    """The trees as rows, shared where the model can read them so and it is less work."""
    device = next(model.parameters()).device
    rows: Sequence[Tree] = [row for tree in trees for row in alone(tree)]
    if getattr(model, "reads_trees", False):
        # All or none: a few trees would pad every row of the others to their length.
        width = int(model.config.get_text_config().hidden_size)
        rows = min(rows, trees, key=lambda some: cost_of(len(some), longest(some), width))
    ids, real = pad_right(
        [[*prompt, *(token for each in responses for token in each)] for prompt, responses in rows],
        pad,
        device,
    )
    shared = any(len(responses) > 1 for _, responses in rows)
    along = torch.arange(ids.shape[1], device=device)
    # A tree may be longer than the model's window, though none of its places is: its padding is at 0.
    positions = torch.zeros_like(ids) if shared else along.expand(ids.shape)
    owner = torch.zeros_like(ids) if shared else None  # 0: the prompt, else the response's number
    ends: list[Place] = []
    before: list[Place] = []
    targets: list[int] = []
    owners: list[int] = []
    for row, (prompt, responses) in enumerate(rows):
        place = len(prompt)
        if owner is not None:
            positions[row, :place] = along[:place]
        for number, response in enumerate(responses, start=1):
            after = place + len(response)
            if owner is not None:
                owner[row, place:after] = number
                positions[row, place:after] = along[len(prompt) : len(prompt) + len(response)]
            before += [(row, len(prompt) - 1), *((row, each) for each in range(place, after - 1))]
            targets += response
            owners += [len(ends)] * len(response)
            ends.append((row, after - 1))
            place = after
    return Forest(
        ids=ids,
        positions=positions,
        mask=None if owner is None else tree_mask(owner, real),
        ends=columns(ends, device),
        before=columns(before, device),
        targets=torch.tensor(targets, device=device),
        owners=torch.tensor(owners, device=device),
    )


def pack(rows: Sequence[Sequence[Tree]], device: torch.device, pad: int) -> Forest:
    """Rows in which several trees of one response each stand one behind the other, blind to each other."""
    flat = [[[*prompt, *response] for prompt, (response,) in row] for row in rows]
    ids, _ = pad_right([[t for each in row for t in each] for row in flat], pad, device)
    positions = torch.zeros_like(ids)
    ends: list[Place] = []
    before: list[Place] = []
    targets: list[int] = []
    owners: list[int] = []
    for row, (trees, texts) in enumerate(zip(rows, flat, strict=True)):
        place = 0
        for (prompt, (response,)), text in zip(trees, texts, strict=True):
            positions[row, place : place + len(text)] = torch.arange(len(text), device=device)
            first = place + len(prompt)
            before += [(row, each - 1) for each in range(first, place + len(text))]
            targets += response
            owners += [len(ends)] * len(response)
            place += len(text)
            ends.append((row, place - 1))
        # The padding behind is one more document.
        positions[row, place:] = torch.arange(ids.shape[1] - place, device=device)

    return Forest(
        ids=ids,
        positions=positions,
        mask=None,
        ends=columns(ends, device),
        before=columns(before, device),
        targets=torch.tensor(targets, device=device),
        owners=torch.tensor(owners, device=device),
    )


def columns(pairs: Sequence[Place], device: torch.device) -> tuple[Tensor, Tensor]:
    """(N,) rows and (N,) places of (row, place) pairs."""
    both = torch.tensor(pairs, device=device)
    return both[:, 0], both[:, 1]


def fill_rows(lengths: Sequence[int], longest: int) -> list[list[int]]:
    """Which items share a row of at most `longest`: first fit, the longest items first.

    Never more than 11/9 of the fewest possible rows, and 6/9 of one (Dosa 2007).
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        place = next((n for n, left in enumerate(room) if left >= lengths[item]), None)
        if place is None:
            rows.append([])
            room.append(longest)
            place = -1
        rows[place].append(item)
        room[place] -= lengths[item]
    return rows


def alone(tree: Tree) -> list[Tree]:
    """A row for each response."""
    prompt, responses = tree
    return [(prompt, [response]) for response in responses]


def longest(rows: Sequence[Tree]) -> int:
    """Tokens of the longest row."""
    return max(len(prompt) + sum(map(len, responses)) for prompt, responses in rows)


def tree_mask(owner: Tensor, real: Tensor) -> Tensor:
    """(R, 1, L, L) 0 where a token sees another, and minus infinity's stand-in elsewhere."""
    length = owner.shape[1]
    places = torch.arange(length, device=owner.device)
    earlier = places[None, :] <= places[:, None]
    family = (owner[:, None, :] == 0) | (owner[:, None, :] == owner[:, :, None])
    seen = earlier & family & real.bool()[:, None, :]
    seen |= torch.eye(length, dtype=torch.bool, device=owner.device)  # padding sees itself
    mask = torch.zeros(seen.shape, device=owner.device)
    return mask.masked_fill_(~seen, torch.finfo(torch.float32).min)[:, None]
