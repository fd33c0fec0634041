"""One token, a known reward for each: what PPO and RLOO have to come to can be written down.

Of all policies, reference * exp(reward / beta), normalised, has the most reward less beta times the KL.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from tests.trainer.rl import plain
from tests.trainer.rl.conftest import ENDS, Models
from trainer.engine.distributed import Processes
from trainer.ppo import PPOTrainer
from trainer.rloo import RLOOTrainer
from trainer.settings.ppo import PPOConfig
from trainer.settings.rloo import RLOOConfig

ALONE = Processes(torch.device("cpu"))
PROMPT = [{"role": "user", "content": "tell me"}]
UPDATES = 20
EPISODES = 256


def logprobs(policy: Any, prompt: list[int], count: int) -> Tensor:
    """(V,) of each of the first tokens as the response's first."""
    with torch.no_grad():
        logits: Tensor = policy(input_ids=torch.tensor([prompt])).logits[0, -1, :count]
    return logits.double().log_softmax(-1)


def kl(one: Tensor, other: Tensor) -> float:
    return float((one.exp() * (one - other)).sum())


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["ppo", "rloo"])
# Where KL costs almost nothing beside the reward, and where it costs everything.
@pytest.mark.parametrize("beta", [0.3, 30.0])
def test_the_closed_form_optimum_of_a_bandit_is_reached(
    models_of: Callable[[str], Models], stage: str, beta: float
) -> None:
    models, penalty = models_of("Llama"), 0.5
    tokenizer = transformers.AutoTokenizer.from_pretrained(models.policy)
    count = len(tokenizer)
    prompt = list(tokenizer.apply_chat_template(PROMPT, add_generation_prompt=True)["input_ids"])
    start, reference = (
        logprobs(plain.load(transformers.AutoModelForCausalLM, path), prompt, count)
        for path in (models.policy, models.reference)
    )
    scorer = plain.load_scorer(models.reward)
    rewards = torch.zeros(count, dtype=torch.float64)
    for action in range(count):
        said = [2] if action in ENDS else [action, 2]
        with torch.no_grad():
            rewards[action] = scorer(input_ids=torch.tensor([prompt + said])).logits[0, 0]
        rewards[action] -= penalty * (action not in ENDS)
    optimum = (reference + rewards / beta).log_softmax(-1)

    given: dict[str, Any] = {
        "data": "unused", "out": "unused", "device": "cpu", "model": models.policy,
        "reference": models.reference, "reward": models.reward, "lr": 8e-3, "kl_coef": beta,
        "missing_eos_penalty": penalty, "response_length": 1, "max_length": 16,
        "batch_size": EPISODES, "micro_batch": EPISODES,
    }  # fmt: skip
    trainer: PPOTrainer | RLOOTrainer
    if stage == "ppo":
        trainer = PPOTrainer(PPOConfig(**given, ppo_epochs=2, minibatches=1), ALONE)
    else:
        trainer = RLOOTrainer(RLOOConfig(**given, responses=EPISODES), ALONE)
    for step in range(1, UPDATES + 1):
        trainer.update([PROMPT] * (EPISODES if stage == "ppo" else 1), step, UPDATES)

    final = logprobs(trainer.policy, prompt, count)
    assert kl(start, optimum) > 1
    assert kl(final, optimum) < 0.05
    assert (kl(final, reference) < 0.05) == (beta > 1)
