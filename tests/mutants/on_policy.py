"""Mistakes in the stages that learn from their own samples: sampling, scoring, PPO, RLOO."""

from tests.mutants.mutant import Mutant

LOSSES = "tests/trainer/formulas/test_losses.py"
STAGES = "tests/trainer/test_stages.py"

ON_POLICY = [
    Mutant(
        name="gae-lambda-dropped",
        breaks="GAE forgets lambda: advantages are those of lambda 1",
        file="trainer/formulas/advantages.py",
        old="(delta + gamma * lam * advantage)",
        new="(delta + gamma * advantage)",
        tests=(f"{LOSSES}::test_gae_by_hand",),
    ),
    Mutant(
        name="ppo-logprobs-at-t-1",
        breaks="sampling uses --temperature, the update's log-probabilities do not",
        file="trainer/ppo.py",
        old="chosen_and_entropy(logits, batch.targets, config.temperature)",
        new="chosen_and_entropy(logits, batch.targets, 1.0)",
        tests=(f"{STAGES}::test_before_the_first_update_ratios_are_one_and_kl_is_zero",),
    ),
]
