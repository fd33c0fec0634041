"""Models: loading them, what they can read, and the conditions that make a run repeatable."""

import copy
import hashlib
import math
import random
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from trainer.engine.distributed import local_part
from trainer.engine.protocols import AnyModel, Model, Module, Policy, RewardModel, Tokenizer
from trainer.engine.templates import end_of_turn
from trainer.engine.tokens import PAD
from trainer.errors import TrainerError, UsageError, first_line


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


def load_policy(path: str, tokenizer: Tokenizer, device: torch.device) -> Policy:
    """A causal language model in float32, without dropout, ready for the tokenizer's tokens.

    Raises TrainerError where the path holds something else, or not all of the model.
    """
    from transformers import AutoModelForCausalLM

    # With tied embeddings a reward model's folder lacks nothing: its kind is known by its name alone.
    if is_reward_model(path):
        raise TrainerError(f"{path}: is a reward model, and a policy is wanted")
    model: Policy = _load_whole(AutoModelForCausalLM, path)
    _fit(path, model, tokenizer)
    _note_ends(model, tokenizer)
    model = without_dropout(model).to(device)
    if not reads_forwards(model):
        raise TrainerError(
            f"{path}: is no causal language model: what it says of a token depends on later ones"
        )
    return model


def load_reward_model(
    path: str, tokenizer: Tokenizer, device: torch.device, *, seed: int
) -> RewardModel:
    """A scalar reward model to train: a trained one, or a policy's trunk with a fresh head.

    A fresh head is drawn from N(0, 1/(d+1)) (Stiennon et al. 2020's code), so that first rewards are
    near each other.
    """
    from transformers import AutoModelForSequenceClassification

    trained = is_reward_model(path)
    model: RewardModel = _load_whole(
        AutoModelForSequenceClassification,
        path,
        fresh=set() if trained else {"score.weight"},
        num_labels=1,
    )
    if not isinstance(getattr(model, "score", None), nn.Module):
        raise TrainerError(f"{path}: has no scalar head named `score`: its family is not supported")
    _fit(path, model, tokenizer)
    if not trained:
        width = model.score.weight.shape[1]
        stream = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            fresh = torch.randn(model.score.weight.shape, generator=stream) / math.sqrt(width + 1)
            model.score.weight.copy_(fresh)
        model.config.reward_mean = 0.0
    return without_dropout(model).to(device)


def load_frozen_reward_model(path: str, tokenizer: Tokenizer, device: torch.device) -> RewardModel:
    """A trained reward model, frozen. Raises TrainerError where there is none at this path."""
    if not is_reward_model(path):
        raise TrainerError(f"{path}: is no reward model (`python -m trainer reward` makes one)")
    return load_reward_model(path, tokenizer, device, seed=0).requires_grad_(False)


def is_reward_model(path: str) -> bool:
    """Whether the checkpoint at this path or of this id is a reward model already."""
    from transformers import AutoConfig

    names = _load(AutoConfig, path).architectures or []
    return any("SequenceClassification" in name for name in names)


def window_of(*models: Model) -> int | None:
    """The most tokens that all of the models can read; None where none of them says."""
    said = [
        getattr(each.config.get_text_config(), "max_position_embeddings", None) for each in models
    ]
    return min((size for size in said if size), default=None)


def fit_window(max_length: int, *models: Model) -> int:
    """`max_length`, or the smallest window of the models where that is less."""
    return min(max_length, window_of(*models) or max_length)


def max_prompt_tokens_of(max_length: int, response_length: int, *models: Model) -> int:
    """The tokens left for a prompt beside a response. Raises UsageError where there are none."""
    window = fit_window(max_length, *models)
    if response_length >= window:
        raise UsageError(
            f"--response-length {response_length} leaves no room for a prompt: the models read "
            f"{window} tokens"
        )
    return window - response_length


def _load(kind: Any, path: str, **options: object) -> Any:
    try:
        return kind.from_pretrained(path, dtype=torch.float32, **options)
    except Exception as error:  # a missing file, a broken one, an id without a network …
        raise TrainerError(f"{path}: the model cannot be loaded: {first_line(error)}") from None


def _load_whole(
    kind: Any, path: str, *, fresh: Collection[str] = frozenset(), **options: int
) -> Any:
    """A model all of whose weights are the checkpoint's, but for those that are to be `fresh`.

    transformers draws what is missing at random and goes on. Raises TrainerError instead, and where a
    weight is no number.
    """
    with _without_warnings():
        model, report = _load(
            kind, path, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    for name, was, is_ in sorted(report["mismatched_keys"]):
        raise TrainerError(
            f"{path}: its weight {name} has the shape {tuple(was)}, and its configuration says "
            f"{tuple(is_)}"
        )
    missing = sorted(set(report["missing_keys"]) - set(fresh))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise TrainerError(f"{path}: its weights are not all there: {missing[0]}{more}")
    if report["error_msgs"]:
        raise TrainerError(f"{path}: the model cannot be loaded: {report['error_msgs'][0]}")
    for name, weight in model.named_parameters():
        # What is fresh is drawn by the caller.
        if name not in fresh and not bool(weight.isfinite().all()):
            raise TrainerError(f"{path}: its weight {name} holds values that are no numbers")
    return model


@contextmanager
def _without_warnings() -> Iterator[None]:
    """transformers' tables of missing weights: what matters of them is said in one line."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def reads_forwards(model: Policy) -> bool:
    """Whether what a model says of a token depends on that and the tokens before it alone."""
    size = model.config.get_text_config().vocab_size
    early = torch.arange(4, device=next(model.parameters()).device) % size
    ends = ((early + shift) % size for shift in (0, size // 2))
    with torch.no_grad():
        one, other = (
            model(input_ids=torch.cat([early, late])[None], use_cache=False).logits[0, :4]
            for late in ends
        )
    return bool((one - other).abs().max() <= 1e-3 * one.abs().max().clamp(min=1))


def _fit(path: str, model: Model, tokenizer: Tokenizer) -> None:
    """Give the model a row for our padding token. Raises TrainerError where it lacks rows for others."""
    rows, added = model.get_input_embeddings().num_embeddings, tokenizer.pad_token == PAD
    if rows < len(tokenizer) - added:
        raise TrainerError(
            f"{path}: its tokenizer has {len(tokenizer) - added} tokens, and the model rows for {rows}"
        )
    if rows < len(tokenizer):
        model.resize_token_embeddings(len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id
    # What transformers looks for where it reads a reward.
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        generation.pad_token_id = tokenizer.pad_token_id


def _note_ends(policy: Policy, tokenizer: Tokenizer) -> None:
    """Let the policy carry every token that ends a response: in training, here and wherever it is saved to.

    Those that its generation settings name, the chat template's end of a turn, the tokenizer's end.
    """
    generation: Any = policy.generation_config
    given = generation.eos_token_id
    named: list[int] = given if isinstance(given, list) else [] if given is None else [given]
    if generation._from_model_config:
        # Nobody chose it: a configuration's default may be any word of this tokenizer.
        special: Any = tokenizer
        named = [each for each in named if each in special.all_special_ids]
    ends = {end_of_turn(tokenizer), tokenizer.eos_token_id, *named}
    kept = sorted(each for each in ends if 0 <= each < len(tokenizer))
    generation.eos_token_id = kept if len(kept) > 1 else kept[0]
    generation._from_model_config = False


def ends_of(policy: Policy) -> list[int]:
    """Every token that ends a response of a policy that was loaded here."""
    ends: int | list[int] = policy.generation_config.eos_token_id
    return ends if isinstance(ends, list) else [ends]


def without_dropout(model: AnyModel) -> AnyModel:
    """Switch every dropout off: the modules, the numbers that a module hands to a function, and those that
    it reads from its configuration as it runs (a copy of it: what is saved with the model stays as it was).
    """
    quiet = copy.deepcopy(model.config)
    for config in (quiet, quiet.get_text_config()):
        _switch_off(config)
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        _switch_off(module)
        # Models keep the configuration that they save; layers and their parts get the copy.
        if type(getattr(module, "config", None)) is type(quiet) and not hasattr(
            module, "save_pretrained"
        ):
            module.config = quiet
    return model.eval()


def _switch_off(holder: object) -> None:
    for name, value in vars(holder).items():
        if isinstance(value, float) and "drop" in name.lower():
            setattr(holder, name, 0.0)


def checkpoint_activations(model: Model) -> None:
    """Compute activations again in the backward pass instead of keeping them.

    Checkpoints work in training mode alone. That mode would bring dropouts back, so only the modules that
    are checkpointed are put into it, and none of their parts.
    """
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()  # frozen embeddings would end the backward pass early
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True


def count_parameters(model: Module) -> int:
    """How many numbers the model learns."""
    return sum(each.numel() for each in model.parameters())


def hash_state(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of all weights (of this process's part, where they are divided): the same hash, the same
    model."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode())
        own = local_part(value).detach().cpu().contiguous()
        digest.update(own.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
