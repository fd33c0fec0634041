"""Models of several families for a run on samples, saved as a user would bring them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers

from tests.trainer.conftest import make_tokenizer
from tests.trainer.families import CONFIGS, make_policy

ENDS = [2, 20]


class Models(NamedTuple):
    """The folders of a run's models, all of one family and tokenizer."""

    policy: str
    reference: str
    reward: str
    other_reward: str


@pytest.fixture(scope="session")
def models_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Models]:
    """The models of a family; made once."""
    made: dict[str, Models] = {}

    def find(family: str) -> Models:
        if family not in made:
            made[family] = make_models(family, tmp_path_factory.mktemp(family))
        return made[family]

    return find


def make_models(family: str, folder: Path) -> Models:
    """Two policies near each other, whose responses end in two ways; two reward models with a mean."""
    policy, reference = make_policy(family), make_policy(family)
    stream = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in reference.parameters():
            weight += 0.03 * torch.randn(weight.shape, generator=stream)
    rewards = [make_reward(family, seed) for seed in (1, 2)]
    models = dict(zip(Models._fields, [policy, reference, *rewards], strict=True))
    for name, model in models.items():
        model.save_pretrained(folder / name)
        make_tokenizer().save_pretrained(folder / name)
        if "reward" not in name:
            ends = json.dumps({"eos_token_id": ENDS})
            (folder / name / "generation_config.json").write_text(ends)
    return Models(**{name: str(folder / name) for name in models})


def make_reward(family: str, seed: int) -> Any:
    """A scalar reward model whose preferred responses had a mean that is not 0, and a spread not 1."""
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(**CONFIGS[family], num_labels=1)
    model = transformers.AutoModelForSequenceClassification.from_config(config).float()
    with torch.no_grad():
        model.score.weight.normal_(std=0.4)
    model.config.reward_mean = 0.7 * seed
    model.config.reward_spread = 0.4 + 0.5 * seed
    return model


def keep_calls(trainer: Any, *names: str) -> dict[str, tuple[Any, ...]]:
    """What these methods return the first time that they are called, and what they were given."""
    kept: dict[str, tuple[Any, ...]] = {}

    def keep(name: str) -> None:
        plain = getattr(trainer, name)

        def call(*given: Any) -> Any:
            result = plain(*given)
            kept.setdefault(name, (result, *given))
            return result

        setattr(trainer, name, call)

    for name in names:
        keep(name)
    return kept
