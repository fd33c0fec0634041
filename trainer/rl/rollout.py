"""Sampling responses, a batch at a time, with a key-value cache.

No truncation of the distribution takes place (no top-k, no top-p): the update needs the probabilities of
the distribution that the tokens were really drawn from. Rows that have ended leave a few at a time. On a
CPU, prompts of like length are answered together: a long one would make a long cache of padding for all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.engine.forward import autocast_of, generating
from trainer.engine.length_batching import group_by_length
from trainer.engine.protocols import Cache, Policy, Tokenizer
from trainer.engine.tokens import decode_responses, pad_left, pad_right, positions_of
from trainer.errors import TrainerError

# Rows that have ended leave when they are this share of the batch: leaving costs a copy of the cache.
ENDED_TOGETHER = 1 / 8
# What a token's step costs on a CPU beside the rows that it is for, as so many tokens of prompt.
TOKENS_OF_A_STEP = 50


@dataclass(frozen=True)
class Rollout:
    """A batch of prompts and sampled responses."""

    ids: Tensor  # (B, P + T) prompts padded on the left, responses padded on the right
    mask: Tensor  # (B, P + T)
    response: Tensor  # (B, T) sampled tokens, the end token among them, padding after it
    response_mask: Tensor  # (B, T)
    ended: Tensor  # (B,) whether the response has its end token

    @property
    def length(self) -> int:
        """T, the longest response."""
        return self.response.shape[1]


def sample(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    *,
    length: int,
    temperature: float,
    end: int | Sequence[int],
    pad: int,
    known: int | None = None,
    stream: torch.Generator | None = None,
    draws: Tensor | None = None,
    together: Callable[[bool], bool] | None = None,
) -> Rollout:
    """Draw one response to each prompt, up to and with an end token or `length` tokens.

    Temperature 0 takes the likeliest token. Of a vocabulary that is padded only the `known` first tokens
    are drawn: the others have no text, and other models of the same tokenizer no row for them.

    Chance comes from (length, B) `draws` in [0, 1), or from `stream`, on the CPU: a row's tokens depend on
    its own draws alone, not on when others end, nor on how many batches of a stream the rows come in.
    `together` tells processes that hold parts of one model whether any of them still has a row that goes
    on: all must make the same number of forward passes.
    """
    device = next(policy.parameters()).device
    if draws is None:
        draws = torch.rand((len(prompts), length), generator=stream).T

    def answer(rows: list[int]) -> Rollout:
        return sample_together(
            policy,
            [prompts[row] for row in rows],
            draws[:, rows].to(device),
            length=length,
            temperature=temperature,
            end=end,
            pad=pad,
            known=known,
            together=together,
        )

    everything = list(range(len(prompts)))
    if device.type != "cpu" or together is not None:
        return answer(everything)
    width = int(policy.config.get_text_config().hidden_size)
    call = TOKENS_OF_A_STEP * length
    groups = group_by_length([*map(len, prompts)], len(prompts), width, call=call)
    if len(groups) == 1:
        return answer(everything)
    by_row: dict[int, Row] = {}
    for group in groups:
        by_row |= zip(group, rows_of(answer(group)), strict=True)
    return from_rows([by_row[row] for row in everything], pad, device)


def sample_together(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    draws: Tensor,
    *,
    length: int,
    temperature: float,
    end: int | Sequence[int],
    pad: int,
    known: int | None = None,
    together: Callable[[bool], bool] | None = None,
) -> Rollout:
    """`sample`, with all prompts in one batch and (length, B) draws on the policy's device."""
    device, count = draws.device, len(prompts)
    ids, mask = pad_left(prompts, pad, device)
    tokens = torch.full((count, length), pad, device=device)
    written = torch.zeros((count, length), dtype=torch.long, device=device)
    ended = torch.zeros(count, dtype=torch.bool, device=device)
    active = torch.arange(count, device=device)
    step_ids, step_mask, positions = ids, mask, positions_of(mask)
    cache: Cache | None = None
    ends = torch.tensor([end] if isinstance(end, int) else [*end], device=device)
    caches = getattr(policy, "samples_with_cache", True)
    with torch.no_grad(), generating(policy):
        for step in range(length):
            with autocast_of(policy):
                output = policy(
                    input_ids=step_ids,
                    attention_mask=step_mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=caches,
                    logits_to_keep=1,
                )
            logits = output.logits[:, -1, :known]
            chosen = draw_tokens(logits, temperature, draws[step, active])
            open_rows = ~ended[active]
            kept = active[open_rows]
            tokens[kept, step] = chosen[open_rows]
            written[kept, step] = 1
            ended[kept] = torch.isin(chosen[open_rows], ends)
            going = ~ended[active]
            if together is not None:
                if not together(bool(going.any())):
                    break
            elif not going.any():
                break
            elif int(going.sum()) <= (1 - ENDED_TOGETHER) * len(active):
                rows = going.nonzero()[:, 0]
                if caches:
                    output.past_key_values.batch_select_indices(rows)
                active, chosen, step_ids = active[rows], chosen[rows], step_ids[rows]
                step_mask, positions = step_mask[rows], positions[rows]
            step_mask = torch.cat([step_mask, step_mask.new_ones(len(active), 1)], dim=1)
            if caches:
                cache = output.past_key_values
                step_ids, positions = chosen[:, None], positions[:, -1:] + 1
            else:
                step_ids = torch.cat([step_ids, chosen[:, None]], dim=1)
                positions = positions_of(step_mask)
    return cut_to_longest(ids, mask, tokens, written, ended)


def cut_to_longest(
    ids: Tensor, mask: Tensor, tokens: Tensor, written: Tensor, ended: Tensor
) -> Rollout:
    """(B, P) prompts and (B, T') responses as a rollout without columns that no response reaches."""
    used = int(written.sum(-1).max())
    tokens, written = tokens[:, :used], written[:, :used]
    return Rollout(
        ids=torch.cat([ids, tokens], dim=1),
        mask=torch.cat([mask, written], dim=1),
        response=tokens,
        response_mask=written,
        ended=ended,
    )


def pick_rows(rollout: Rollout, rows: Sequence[int]) -> Rollout:
    """Some rows of a rollout, as wide as they were."""
    if len(rows) == len(rollout.ids):
        return rollout
    chosen = torch.tensor(rows, device=rollout.ids.device)
    return Rollout(
        ids=rollout.ids[chosen],
        mask=rollout.mask[chosen],
        response=rollout.response[chosen],
        response_mask=rollout.response_mask[chosen],
        ended=rollout.ended[chosen],
    )


# A row of a rollout: prompt tokens, response tokens, whether it ended.
Row = tuple[list[int], list[int], bool]


def rollout_row(rollout: Rollout, row: int) -> tuple[list[int], list[int]]:
    """(prompt, response) tokens of a row, without padding."""
    start = rollout.ids.shape[1] - rollout.length
    prompt = rollout.ids[row, :start][rollout.mask[row, :start].bool()]
    response = rollout.response[row, : int(rollout.response_mask[row].sum())]
    return prompt.tolist(), response.tolist()


def rows_of(rollout: Rollout) -> list[Row]:
    """The rows without their padding, to be carried to other processes."""
    ended = rollout.ended.tolist()
    return [(*rollout_row(rollout, row), ended[row]) for row in range(len(ended))]


def scatter_to_padded(values: Tensor, mask: Tensor) -> Tensor:
    """(B, T) of (M,) values of the tokens that count, row by row; 0 elsewhere."""
    return values.new_zeros(mask.shape).masked_scatter(mask.bool(), values)


def from_rows(rows: Sequence[Row], pad: int, device: torch.device) -> Rollout:
    """A rollout of such rows."""
    ids, mask = pad_left([prompt for prompt, _, _ in rows], pad, device)
    tokens, written = pad_right([response for _, response, _ in rows], pad, device)
    ended = torch.tensor([each for _, _, each in rows], device=device)
    return cut_to_longest(ids, mask, tokens, written, ended)


def draw_tokens(logits: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    """(B,) tokens drawn from (B, V) logits with (B,) numbers from [0, 1), by the inverse distribution.

    Raises TrainerError where the logits are no numbers: any token would do, and none would mean anything.
    """
    if temperature == 0:
        likeliest = logits.max(-1)
        check_numbers(likeliest.values)
        return likeliest.indices
    chances = (logits.float() / temperature).softmax(-1).double()
    reached = chances.cumsum(-1)
    check_numbers(reached[:, -1])
    below = reached <= uniform.double()[:, None] * reached[:, -1:]
    return below.sum(-1).clamp(max=logits.shape[-1] - 1)


def check_numbers(values: Tensor) -> None:
    """Raise TrainerError where some values, which say whether all of a row's are, are no numbers."""
    if not bool(values.isfinite().all()):
        raise TrainerError("the policy's logits are no numbers: nothing can be sampled from it")


def decode(tokenizer: Tokenizer, rollout: Rollout) -> list[str]:
    """The responses as text, without their end tokens."""
    return decode_responses(
        tokenizer,
        [
            row[: int(mask.sum()) - int(ended)].tolist()
            for row, mask, ended in zip(
                rollout.response, rollout.response_mask, rollout.ended, strict=True
            )
        ],
    )
