"""The shapes of what passes through the trainer: what it asks of a policy, a reward model, a tokenizer.

They are transformers' own classes, of which that library says too little for a type checker. Each member
here is one that the trainer uses: what is not here, it does not need.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from trainer.data.examples import Messages

if TYPE_CHECKING:
    from trainer.engine.last_layer import SelectiveLastLayer


class Module(Protocol):
    """What every torch module has."""

    training: bool

    def parameters(self) -> Iterator[nn.Parameter]:
        """The weights."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The weights by name."""

    def modules(self) -> Iterator[nn.Module]:
        """The module and all of its parts."""

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """The module and all of its parts, by name."""

    def get_submodule(self, target: str) -> nn.Module:
        """A part by its name."""

    def state_dict(self) -> dict[str, Any]:
        """The weights and buffers by name."""

    def train(self, mode: bool = True) -> Self:
        """Switch to training."""

    def eval(self) -> Self:
        """Switch to inference."""


class TextConfig(Protocol):
    """The sizes of a language model."""

    hidden_size: int
    vocab_size: int
    pad_token_id: int | None

    def to_dict(self) -> dict[str, Any]:
        """All values."""


class ModelConfig(Protocol):
    """A model's configuration."""

    pad_token_id: int | None
    # Of a reward model of ours: the mean that is subtracted, the spread among a prompt's candidates, and
    # the chances of ties that go with it.
    reward_mean: float
    reward_spread: float | None
    tie_nu: list[float] | None

    def get_text_config(self) -> TextConfig:
        """The part that describes the language model."""

    def update(self, config_dict: dict[str, Any]) -> None:
        """Take these values."""

    def to_dict(self) -> dict[str, Any]:
        """All values."""


class Model(Module, Protocol):
    """What every model of transformers has."""

    config: ModelConfig
    base_model_prefix: str
    # What `prepare_model` and `probe_capabilities` note on it.
    compute_dtype: torch.dtype
    reads_shared_prefix: bool
    longest_shared_row: int | None  # tokens; None: as long as its memory bears
    plain_head: bool
    last_layer: "SelectiveLastLayer | None"
    samples_with_cache: bool

    def get_output_embeddings(self) -> nn.Module | None:
        """The head over the vocabulary, where there is one."""

    def get_input_embeddings(self) -> nn.Embedding:
        """The embeddings."""

    def resize_token_embeddings(self, new_num_tokens: int) -> object:
        """Make room for so many tokens."""

    def activation_checkpointing_enable(self, kwargs: dict[str, Any]) -> None:
        """Compute activations twice instead of keeping them."""

    def enable_input_require_grads(self) -> None:
        """Let gradients start at the embeddings."""

    def to(self, device: torch.device) -> Self:
        """Move it there."""

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze the weights, or thaw them."""

    def save_pretrained(self, folder: Path) -> object:
        """Write the model."""


AnyModel = TypeVar("AnyModel", bound=Model)


class Cache(Protocol):
    """Keys and values of the tokens so far."""

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""


class PolicyOutput(Protocol):
    """What a forward pass of a policy gives."""

    logits: Tensor  # (B, L, V)
    past_key_values: Cache


class Generation(Protocol):
    """How a policy is sampled by whoever loads it."""

    eos_token_id: int | list[int]


class Policy(Model, Protocol):
    """A causal language model."""

    generation_config: Generation

    def __call__(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> PolicyOutput:
        """One forward pass."""


class RewardModel(Model, Protocol):
    """A language model's trunk with a scalar head: a reward model, or PPO's value model."""

    score: nn.Linear


class AddedToken(Protocol):
    """A token beside the vocabulary that was learnt."""

    content: str
    special: bool


class Tokenizer(Protocol):
    """Text to tokens and back."""

    pad_token: str
    pad_token_id: int
    eos_token_id: int
    eos_token: str
    bos_token_id: int | None
    bos_token: str
    chat_template: str | dict[str, str] | None
    # Tokens that are not special, and none but a chat template may write all the same.
    chat_control_tokens: Sequence[str] | None

    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]:
        """The added tokens by their ids."""

    def __len__(self) -> int:
        """How many tokens it knows."""

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        add_special_tokens: bool = True,
        split_special_tokens: bool = False,
    ) -> Mapping[str, Any]:
        """The text's tokens, as `input_ids`."""

    def add_special_tokens(self, special_tokens_dict: dict[str, str]) -> int:
        """Give it a token of that role."""

    def apply_chat_template(
        self,
        conversation: Messages,
        *,
        add_generation_prompt: bool,
        tokenize: bool,
        return_dict: bool,
        sanitize_control_tokens: bool = False,
    ) -> Any:
        """A conversation as text; or its tokens, as `input_ids`."""

    def batch_decode(
        self,
        sequences: Sequence[Sequence[int]],
        *,
        skip_special_tokens: bool,
        clean_up_tokenization_spaces: bool,
    ) -> list[str]:
        """The texts of these tokens."""

    def get_vocab(self) -> dict[str, int]:
        """The id of each token."""

    def save_pretrained(self, folder: Path) -> object:
        """Write the tokenizer."""
