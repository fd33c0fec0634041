"""Learning rates that were published, by stage, size and whether adapters are trained, and Adam's epsilon.

A run that is given no `--lr` takes the row that is nearest to its model in size, on a logarithmic scale,
and says whose it is. Rows of ours fill what nobody has published: below a billion parameters, a rate that
falls with the square root of the size; adapters without a published row, ten times the rate of all weights
(Schulman et al. 2025).
"""

import math
from typing import NamedTuple

OUYANG = "Ouyang et al. 2022 (InstructGPT), appendix C"
TOUVRON = "Touvron et al. 2023 (Llama 2), section 3"
HUANG = "Huang et al. 2024 (N+ Implementation Details), one rate for all stages and sizes"
RAFAILOV = "Rafailov et al. 2023 (DPO), appendix B (RMSprop)"
ZEPHYR = "Tunstall et al. 2023 (Zephyr), alignment-handbook recipe zephyr-7b-beta"
TULU = "Ivison et al. 2023 (Tulu 2), Zephyr's recipe"
STACKLLAMA = "StackLLaMA (Hugging Face 2023), trl's stack_llama scripts"
HU = "Hu et al. 2021 (LoRA), appendix D"
DETTMERS = "Dettmers et al. 2023 (QLoRA), appendix B"
OURS = "ours"
TENFOLD = "ours: ten times that of all weights (Schulman et al. 2025, LoRA Without Regret)"


class Rate(NamedTuple):
    """A learning rate that is known to work."""

    stage: str
    lora: bool
    parameters: float
    lr: float
    source: str


RATES = (
    Rate("sft", False, 1e6, 8e-4, OURS),
    Rate("sft", False, 1e7, 2.5e-4, OURS),
    Rate("sft", False, 1e8, 8e-5, OURS),
    Rate("sft", False, 1.3e9, 9.65e-6, OUYANG),
    Rate("sft", False, 7e9, 2e-5, f"{TOUVRON}; {ZEPHYR}"),
    Rate("sft", False, 7e10, 2e-5, TOUVRON),
    Rate("sft", False, 1.75e11, 5.03e-6, OUYANG),
    Rate("sft", True, 1e6, 8e-3, TENFOLD),
    Rate("sft", True, 1e7, 2.5e-3, TENFOLD),
    Rate("sft", True, 3.5e8, 2e-4, HU),
    Rate("sft", True, 7e9, 2e-4, f"{DETTMERS}; {ZEPHYR}"),
    Rate("sft", True, 1.3e10, 2e-4, DETTMERS),
    Rate("sft", True, 6.5e10, 1e-4, DETTMERS),
    Rate("sft", True, 1.75e11, 2e-4, HU),
    Rate("reward", False, 1e6, 7e-4, OURS),
    Rate("reward", False, 1e7, 2.2e-4, OURS),
    Rate("reward", False, 1e8, 7e-5, OURS),
    Rate("reward", False, 1e9, 3e-6, HUANG),
    Rate("reward", False, 6e9, 9e-6, OUYANG),
    Rate("reward", False, 1.3e10, 1e-5, TOUVRON),
    Rate("reward", False, 7e10, 5e-6, TOUVRON),
    Rate("reward", True, 1e6, 7e-3, TENFOLD),
    Rate("reward", True, 1e7, 2.2e-3, TENFOLD),
    Rate("reward", True, 1e8, 7e-4, TENFOLD),
    Rate("reward", True, 7e9, 2e-5, STACKLLAMA),
    Rate("reward", True, 7e10, 5e-5, TENFOLD),
    Rate("dpo", False, 1e6, 8e-5, OURS),
    Rate("dpo", False, 1e7, 2.6e-5, OURS),
    Rate("dpo", False, 1e8, 8e-6, OURS),
    Rate("dpo", False, 2.8e9, 1e-6, RAFAILOV),
    Rate("dpo", False, 7e9, 5e-7, ZEPHYR),
    Rate("dpo", False, 7e10, 5e-7, TULU),
    Rate("dpo", True, 1e6, 8e-4, TENFOLD),
    Rate("dpo", True, 1e7, 2.6e-4, TENFOLD),
    Rate("dpo", True, 1e8, 8e-5, TENFOLD),
    Rate("dpo", True, 7e9, 5e-6, ZEPHYR),
    Rate("dpo", True, 7e10, 5e-6, TENFOLD),
    Rate("ppo", False, 1e6, 2.5e-4, OURS),
    Rate("ppo", False, 1e7, 8e-5, OURS),
    Rate("ppo", False, 1e8, 2.5e-5, OURS),
    Rate("ppo", False, 1e9, 3e-6, HUANG),
    Rate("ppo", False, 6.9e9, 3e-6, HUANG),
    Rate("ppo", False, 7e10, 1e-6, TOUVRON),
    Rate("ppo", True, 1e6, 2.5e-3, TENFOLD),
    Rate("ppo", True, 1e7, 8e-4, TENFOLD),
    Rate("ppo", True, 1e8, 2.5e-4, TENFOLD),
    Rate("ppo", True, 1e9, 3e-5, TENFOLD),
    Rate("ppo", True, 7e9, 1.4e-5, STACKLLAMA),
    Rate("ppo", True, 7e10, 1e-5, TENFOLD),
)

# No rate of RLOO's own could be checked: it is given PPO's.
SAME_AS = {"rloo": "ppo"}

# Adam's epsilon. The papers on PPO name 1e-5; torch's and the optimiser's own papers' 1e-8 is what stages
# with examples were published with.
EPSILON = 1e-8
ON_POLICY_EPSILON = 1e-5
EPSILONS = {
    "sft, reward, dpo": (EPSILON, "Kingma and Ba 2015, algorithm 1; torch's default"),
    "ppo, rloo": (
        ON_POLICY_EPSILON,
        "Huang et al. 2024 (N+ Implementation Details); Touvron et al. 2023, section 3.2.3",
    ),
}


def find_rate(stage: str, parameters: int, *, lora: bool) -> Rate:
    """The row for a model of this size."""
    rows = [each for each in RATES if each.stage == SAME_AS.get(stage, stage) and each.lora == lora]
    return min(rows, key=lambda each: abs(math.log(each.parameters / max(parameters, 1))))


def choose_lr(asked: float | None, stage: str, parameters: int, *, lora: bool) -> tuple[float, str]:
    """(learning rate, whose it is): the one asked for, or the row for this stage and model."""
    if asked is not None:
        return asked, "--lr"
    rate = find_rate(stage, parameters, lora=lora)
    return rate.lr, rate.source
