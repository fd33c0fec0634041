"""What a model can do, found out by trying it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.engine.forward import autocast_of, generating, hidden_states
from trainer.engine.last_layer import find_last_layer
from trainer.engine.protocols import AnyModel, Cache, Model, Policy
from trainer.engine.responses import select, states_at
from trainer.engine.shared_prefix import PromptResponses, build_batch, build_packed_batch
from trainer.engine.tokens import pad_left, positions_of
from trainer.errors import TrainerError
from trainer.settings.training import TrainingConfig

# Two ways to compute the same state agree this well in float32.
TOLERANCE = 1e-3
# How a model fails that is asked for what it cannot do.
FAILURES = (ValueError, RuntimeError, TypeError, IndexError, AttributeError, AssertionError)


# The trial's prompt and responses: long enough for what goes wrong some way into a row, and each of another
# length.
PROMPT_TOKENS = 61
RESPONSE_TOKENS = (29, 23, 37)


def probe_capabilities(model: AnyModel) -> AnyModel:
    """Note on the model what it can do: read a shared prefix once, have its head applied outside of its own
    forward pass, and have its last layer computed only where it is read.

    All are tried on random tokens, against rows of their own, the model's own logits and whole states. A
    shared row has to fit into the smallest window: two of its tokens may stand farther apart in the row
    than they are.
    """
    model.reads_shared_prefix = model.plain_head = False
    model.last_layer = None
    model.longest_shared_row = min(windows_of(model), default=None)
    group = draw_group(model)
    with torch.no_grad():
        apart = build_batch([group], model, 0)
        states = hidden_states(model, apart.ids, apart.mask, apart.positions)
        head = model.get_output_embeddings()
        if head is not None:
            with autocast_of(model):
                own = model(  # type: ignore[operator]
                    input_ids=apart.ids,
                    attention_mask=apart.mask,
                    position_ids=apart.positions,
                    use_cache=False,
                ).logits
                model.plain_head = agree(head(states), own)
        model.last_layer = find_last_layer(model)
        expected = select(states, apart.ends)
        try:
            if not agree(states_at(model, apart, apart.ends), expected):
                model.last_layer = None
        except FAILURES:
            model.last_layer = None
        model.reads_shared_prefix = True
        together = build_batch([group], model, 0, always_share=True)
        try:
            shared = hidden_states(model, together.ids, together.mask, together.positions)
        except FAILURES:
            model.reads_shared_prefix = False
        else:
            model.reads_shared_prefix = agree(
                select(shared, together.before), select(states, apart.before)
            )
    return model


# The trial's prompts, and how many tokens follow each of them.
SAMPLED_PROMPTS = (23, 61, 5)
SAMPLED_TOKENS = 6


def probe_sampling(policy: Policy, path: str) -> None:
    """Note on a policy whether it samples with a cache. Raises TrainerError where it cannot sample at all.

    Prompts of several lengths, padded on the left, go on for a few tokens. What the policy says on the way
    has to be what it says of each row alone, unpadded and whole. Where a cache spoils that (a state that
    takes padding in, a cache under another name), every token reads all tokens before it again.
    """
    rows = draw_rows(policy)
    with torch.no_grad(), generating(policy):
        expected = torch.stack([_follow_alone(policy, row) for row in rows])  # (B, T, V)
        for caches in (True, False):
            policy.samples_with_cache = caches
            try:
                if agree(_follow_padded(policy, rows, caches), expected):
                    return
            except FAILURES:
                continue
    raise TrainerError(
        f"{path}: this model cannot be sampled in batches: beside a longer prompt it says something else "
        "than alone"
    )


def _follow_alone(policy: Policy, row: Sequence[int]) -> Tensor:
    """(T, V) logits before each of a row's last tokens."""
    ids = torch.tensor([row], device=next(policy.parameters()).device)
    logits = policy(input_ids=ids, use_cache=False).logits[0]
    return logits[-SAMPLED_TOKENS - 1 : -1]


def _follow_padded(policy: Policy, rows: Sequence[Sequence[int]], caches: bool) -> Tensor:
    """(B, T, V) of the same, as `sample` computes them: a token at a time."""
    device = next(policy.parameters()).device
    ids, mask = pad_left([row[:-SAMPLED_TOKENS] for row in rows], 0, device)
    late = torch.tensor([row[-SAMPLED_TOKENS:] for row in rows], device=device)
    positions, said = positions_of(mask), list[Tensor]()
    cache: Cache | None = None
    for step in range(SAMPLED_TOKENS):
        output = policy(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=caches,
            logits_to_keep=1,
        )
        said.append(output.logits[:, -1])
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        if caches:
            cache = output.past_key_values
            # Rows that have ended leave the cache: here all stay, in the order that they have.
            cache.batch_select_indices(torch.arange(len(rows), device=device))
            ids, positions = late[:, step : step + 1], positions[:, -1:] + 1
        else:
            ids = torch.cat([ids, late[:, step : step + 1]], dim=1)
            positions = positions_of(mask)
    return torch.stack(said, dim=1)


def draw_rows(model: Model) -> list[list[int]]:
    """Rows of random tokens of several lengths, as long as the model's positions bear."""
    config = model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None) or max(SAMPLED_PROMPTS)
    stream = torch.Generator().manual_seed(1)
    sizes = [
        max(1, min(size, longest - SAMPLED_TOKENS)) + SAMPLED_TOKENS for size in SAMPLED_PROMPTS
    ]
    return [
        torch.randint(0, int(config.vocab_size), (size,), generator=stream).tolist()
        for size in sizes
    ]


def can_pack(model: Model, row_length: int) -> bool:
    """Whether documents that stand one behind the other in a row stay blind to each other.

    transformers tells them apart by their positions, where a model's attention asks for it; one that does
    not (positions from the mask, a state that runs on) would leak one document into the next.
    """
    tokens = draw_group(model)[1]
    size = max(2, min(row_length // len(tokens), max(RESPONSE_TOKENS)))
    documents: list[PromptResponses] = [(each[:1], [each[1:size]]) for each in tokens]
    device = next(model.parameters()).device
    with torch.no_grad():
        apart = build_batch(documents, model, 0)
        expected = select(
            hidden_states(model, apart.ids, apart.mask, apart.positions), apart.before
        )
        packed = build_packed_batch([documents], device, 0)
        try:
            states = hidden_states(model, packed.ids, packed.mask, packed.positions)
        except FAILURES:
            return False
        return agree(select(states, packed.before), expected)


def draw_group(model: Model) -> PromptResponses:
    """A prompt and responses of random tokens, as many as the model's windows and positions bear."""
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    bounds = [*windows_of(model), *([positions] if positions else [])]
    whole = PROMPT_TOKENS + sum(RESPONSE_TOKENS)
    share = min(1.0, min(bounds, default=whole) / whole)
    sizes = [max(2, int(share * size)) for size in (PROMPT_TOKENS, *RESPONSE_TOKENS)]
    stream = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, int(config.vocab_size), (sum(sizes),), generator=stream)
    prompt, *responses = [part.tolist() for part in torch.split(tokens, sizes)]
    return prompt, responses


def windows_of(model: Model) -> list[int]:
    """How many tokens back the layers of a model see, where its configuration bounds it.

    Families name it differently (sliding_window, window_size, attention_chunk_size …): every whole number
    whose name speaks of a window or a chunk counts. One that is switched off does not.
    """
    config = model.config.get_text_config().to_dict()
    if config.get("use_sliding_window") is False:
        config.pop("sliding_window", None)
    return sorted(_windows_in(config))


def _windows_in(values: Mapping[Any, object]) -> Iterator[int]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _windows_in(value)
        elif (
            isinstance(name, str)
            and ("window" in name or "chunk_size" in name)
            and type(value) is int
            and value > 0
        ):
            yield value


def agree(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal but for rounding."""
    difference = (one.float() - other.float()).abs()
    return bool(difference.max() <= TOLERANCE * other.abs().max().clamp(min=1))


# How far a figure that is known before anything is learnt may be from it, by the precision of the run. What
# these are to catch (a dropout that is on, other positions) is off by several tenths at least.
IDENTITY_TOLERANCE = {"float32": 0.01, "bfloat16": 0.25}


def check_identity(name: str, value: float, expected: float, config: TrainingConfig) -> None:
    """Raise TrainerError where a figure of the first step is not what it has to be.

    A copy of a model is the model: ratios are 1 and divergences 0 until something was learnt. Where they
    are not, the two were computed differently, and every later figure would be wrong too.
    """
    if not abs(value - expected) <= IDENTITY_TOLERANCE[config.dtype]:
        raise TrainerError(
            f"{name} is {value:.4g} and has to be {expected:g} before anything was learnt: this model "
            "computes the same tokens differently from one time to the next (a dropout that cannot be "
            "switched off, or positions that depend on the batch); it cannot be trained here"
        )
