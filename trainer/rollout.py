"""Sampling responses, a batch at a time, with a key-value cache.

No truncation of the distribution takes place (no top-k, no top-p): the update needs the probabilities of
the distribution that the tokens were really drawn from. Rows that have ended leave the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.models import pad_left, positions_of


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
    policy: Any,
    prompts: Sequence[Sequence[int]],
    *,
    length: int,
    temperature: float,
    end: int,
    pad: int,
    stream: torch.Generator,
) -> Rollout:
    """Draw one response to each prompt, up to and with its end token or `length` tokens.

    Temperature 0 takes the likeliest token. `stream` is on the CPU; every step draws one number a row
    from it, ended or not, so that a row's draws do not depend on when others end.
    """
    device = next(policy.parameters()).device
    ids, mask = pad_left(prompts, pad, device)
    count = len(prompts)
    tokens = torch.full((count, length), pad, device=device)
    written = torch.zeros((count, length), dtype=torch.long, device=device)
    ended = torch.zeros(count, dtype=torch.bool, device=device)
    active = torch.arange(count, device=device)
    step_ids, step_mask, positions = ids, mask, positions_of(mask)
    cache: Any = None
    with torch.no_grad():
        for step in range(length):
            output = policy(
                input_ids=step_ids,
                attention_mask=step_mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            uniform = torch.rand(count, generator=stream).to(device)[active]
            chosen = draw(output.logits[:, -1], temperature, uniform)
            tokens[active, step] = chosen
            written[active, step] = 1
            going = chosen != end
            ended[active[~going]] = True
            if not going.any():
                break
            if not going.all():
                kept = going.nonzero()[:, 0]
                cache.batch_select_indices(kept)
                active, chosen = active[kept], chosen[kept]
                step_mask, positions = step_mask[kept], positions[kept]
            step_ids = chosen[:, None]
            step_mask = torch.cat([step_mask, step_mask.new_ones(len(active), 1)], dim=1)
            positions = positions[:, -1:] + 1
    used = int(written.sum(-1).max())
    tokens, written = tokens[:, :used], written[:, :used]
    return Rollout(
        ids=torch.cat([ids, tokens], dim=1),
        mask=torch.cat([mask, written], dim=1),
        response=tokens,
        response_mask=written,
        ended=ended,
    )


def draw(logits: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    """(B,) tokens drawn from (B, V) logits with (B,) numbers from [0, 1), by the inverse distribution."""
    if temperature == 0:
        return logits.argmax(-1)
    chances = (logits.float() / temperature).softmax(-1).double()
    reached = chances.cumsum(-1)
    below = reached <= uniform.double()[:, None] * reached[:, -1:]
    return below.sum(-1).clamp(max=logits.shape[-1] - 1)


def decode(tokenizer: Any, rollout: Rollout) -> list[str]:
    """The responses as text, without their end tokens."""
    texts: list[str] = tokenizer.batch_decode(
        [
            row[: int(mask.sum())].tolist()
            for row, mask in zip(rollout.response, rollout.response_mask, strict=True)
        ],
        skip_special_tokens=True,
    )
    return texts
