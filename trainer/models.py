"""Tokenizers and models, and the forward passes that every stage shares.

All batches carry their masks, and position ids are made from them, so that padding on either side, or its
token, changes nothing. Log-probabilities are computed in float32.
"""

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.data import Messages
from trainer.errors import TrainerError, UsageError
from trainer.processes import local_of

PAD = "<|pad|>"
# For tokenizers that bring no chat template. A stated format beats a guessed one.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}assistant: {{ message['content'] }}{{ eos_token }}\n"
    "{% else %}{{ message['role'] }}: {{ message['content'] }}\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def choose_device(wanted: str) -> torch.device:
    """The device to compute on; `auto` takes a GPU where there is one."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: this machine has no GPU that torch can use")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def make_repeatable(seed: int, device: torch.device | None = None) -> None:
    """Seed everything, and let torch refuse what it cannot repeat.

    On a GPU a few operations (a cumulative sum of floats among them) have no repeatable kernel: there
    torch only warns.
    """
    random.seed(seed)
    torch.manual_seed(seed)
    on_gpu = device is not None and device.type == "cuda"
    torch.use_deterministic_algorithms(True, warn_only=on_gpu)
    # It would write NaN into all memory before its first use, to find who reads it: a tenth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def load_tokenizer(path: str) -> Any:
    """A tokenizer with an end, a padding token that is not the end, and a chat template.

    Padding with the end token would teach a model never to end and make a reward model read the wrong
    place. Raises TrainerError where there is none at this path, or it has no end token.
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
    return tokenizer


def load_policy(path: str, tokenizer: Any, device: torch.device) -> Any:
    """A causal language model in float32, without dropout, ready for the tokenizer's tokens."""
    from transformers import AutoModelForCausalLM

    model = _load(AutoModelForCausalLM, path)
    _fit(model, tokenizer)
    return without_dropout(model).to(device)


def load_reward_model(path: str, tokenizer: Any, device: torch.device, *, seed: int) -> Any:
    """A scalar reward model to train: a trained one, or a policy's trunk with a fresh head.

    A fresh head is drawn from N(0, 1/(d+1)) (Stiennon et al. 2020's code), so that first rewards are
    near each other.
    """
    from transformers import AutoModelForSequenceClassification

    trained = is_reward_model(path)
    model = _load(AutoModelForSequenceClassification, path, num_labels=1)
    if not isinstance(getattr(model, "score", None), nn.Module):
        raise TrainerError(f"{path}: has no scalar head named `score`: its family is not supported")
    _fit(model, tokenizer)
    if not trained:
        width = model.score.weight.shape[1]
        stream = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            fresh = torch.randn(model.score.weight.shape, generator=stream) / math.sqrt(width + 1)
            model.score.weight.copy_(fresh)
        model.config.reward_mean = 0.0
    return without_dropout(model).to(device)


def load_scorer(path: str, tokenizer: Any, device: torch.device) -> Any:
    """A trained reward model, frozen. Raises TrainerError where there is none at this path."""
    if not is_reward_model(path):
        raise TrainerError(f"{path}: is no reward model (`python -m trainer reward` makes one)")
    return load_reward_model(path, tokenizer, device, seed=0).requires_grad_(False)


def is_reward_model(path: str) -> bool:
    """Whether the checkpoint at this path or of this id is a reward model already."""
    from transformers import AutoConfig

    names = _load(AutoConfig, path).architectures or []
    return any("SequenceClassification" in name for name in names)


def window_of(*models: Any) -> int | None:
    """The most tokens that all of the models can read; None where none of them says."""
    said = [
        getattr(each.config.get_text_config(), "max_position_embeddings", None) for each in models
    ]
    return min((size for size in said if size), default=None)


def fit_window(max_length: int, *models: Any) -> int:
    """`max_length`, or the smallest window of the models where that is less."""
    return min(max_length, window_of(*models) or max_length)


def response_room(max_length: int, response_length: int, *models: Any) -> int:
    """The tokens left for a prompt beside a response. Raises UsageError where there are none."""
    window = fit_window(max_length, *models)
    if response_length >= window:
        raise UsageError(
            f"--response-length {response_length} leaves no room for a prompt: the models read "
            f"{window} tokens"
        )
    return window - response_length


def _load(kind: Any, path: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(path, dtype=torch.float32, **options)
    except Exception as error:  # a missing file, a broken one, an id without a network …
        raise TrainerError(f"{path}: the model cannot be loaded: {first_line(error)}") from None


def first_line(error: Exception) -> str:
    """What an exception says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)


def _fit(model: Any, tokenizer: Any) -> None:
    """Give the model a row for every token, and the tokenizer's padding token."""
    if model.get_input_embeddings().num_embeddings < len(tokenizer):
        model.resize_token_embeddings(len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id


def without_dropout(model: Any) -> Any:
    """Switch every dropout off: as a module, or as a number that attention reads."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    return model


def count_parameters(model: nn.Module) -> int:
    """How many numbers the model learns."""
    return sum(each.numel() for each in model.parameters())


def hash_state(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of all weights (of this process's part, where they are divided): the same hash, the same
    model."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode())
        own = local_of(value).detach().cpu().contiguous()
        digest.update(own.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# --- tokens -----------------------------------------------------------------------------------------


@dataclass
class Encoder:
    """Conversations and responses as token ids, by stated rules, with what was cut counted.

    A response is its text's tokens and the end token. A prompt that does not fit beside the response in
    `max_length` loses its start; a response that does not fit alone loses its end, and its end token.
    """

    tokenizer: Any
    max_length: int
    cut: dict[str, int] = field(default_factory=dict)

    def prompt(self, messages: Messages, room: int) -> list[int]:
        """The prompt's tokens, at most `room` of them: its last ones."""
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
        if len(ids) > room:
            self._count("prompt cut at its start")
        return ids[-room:] if room > 0 else []

    def response(self, text: str) -> list[int]:
        """The response's tokens and the end token."""
        ids: list[int] = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if not ids:
            self._count("empty response")
        ids.append(self.tokenizer.eos_token_id)
        longest = self.max_length - 1  # at least one token of the prompt stays
        if len(ids) > longest:
            self._count("response cut at its end")
        return ids[:longest]

    def pair(self, messages: Messages, text: str) -> tuple[list[int], list[int]]:
        """(prompt, response) tokens that fit together."""
        response = self.response(text)
        return self.prompt(messages, self.max_length - len(response)), response

    def _count(self, what: str) -> None:
        self.cut[what] = self.cut.get(what, 0) + 1


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


# --- forward passes ---------------------------------------------------------------------------------


def computing(model: Any) -> AbstractContextManager[Any]:
    """The precision that the run computes this model in; outside of it, everything is float32."""
    dtype = getattr(model, "compute_dtype", None)
    if dtype is None:
        return nullcontext()
    return torch.autocast(next(model.parameters()).device.type, dtype)


def trunk_of(model: Any) -> Any:
    """The model without its head."""
    return getattr(model, model.base_model_prefix)


def hidden_states(
    model: Any, ids: Tensor, mask: Tensor | None, positions: Tensor | None = None
) -> Tensor:
    """(B, L, D) last hidden states of the model's trunk, in float32.

    `positions` are made from a mask of (B, L); without a mask, they tell where each document of a packed
    row starts.
    """
    if positions is None:
        assert mask is not None
        positions = positions_of(mask)
    trunk = trunk_of(model)
    with computing(model):
        output = trunk(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    states: Tensor = output.last_hidden_state
    return states.float()


def token_rewards(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """(B, L) the scalar head at every position, less the mean that was measured after training."""
    scores: Tensor = model.score(hidden_states(model, ids, mask))[..., 0]
    return scores - getattr(model.config, "reward_mean", 0.0)


def sequence_rewards(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """(B,) rewards read at each row's last real token: the end token of its response."""
    places = torch.arange(mask.shape[1], device=mask.device)
    last = (places * mask).argmax(-1)
    states = hidden_states(model, ids, mask)
    ends = states[torch.arange(len(states), device=states.device), last]  # (B, D)
    scores: Tensor = model.score(ends)[..., 0]
    return scores - getattr(model.config, "reward_mean", 0.0)


def score_texts(
    model: Any, encoder: Encoder, pairs: Sequence[tuple[Messages, str]], *, batch_size: int = 64
) -> Tensor:
    """(N,) rewards of responses to conversations, tokenised as the reward model wants them."""
    device = next(model.parameters()).device
    encoded = [encoder.pair(messages, text) for messages, text in pairs]
    rows = [prompt + response for prompt, response in encoded]
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    scores = torch.zeros(len(rows))
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            some = order[start : start + batch_size]
            ids, mask = pad_right(
                [rows[index] for index in some], encoder.tokenizer.pad_token_id, device
            )
            scores[some] = sequence_rewards(model, ids, mask).float().cpu()
    return scores


def same_tokens(one: Any, other: Any) -> bool:
    """Whether two tokenizers give the same ids to the same conversations."""
    return bool(
        one.get_vocab() == other.get_vocab()
        and one.chat_template == other.chat_template
        and one.eos_token_id == other.eos_token_id
    )


def save_model(model: Any, tokenizer: Any, folder: Path, *, card: str | None = None) -> None:
    """Save both (and a card), beside their place first, so that there is never half a model."""
    import shutil

    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    if card is not None:
        (fresh / "README.md").write_text(card)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
