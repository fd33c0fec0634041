"""Mistakes in what ties are to a reward model."""

from tests.mutants.mutant import Mutant

FORMULAS = "tests/trainer/formulas/test_ties.py"
RUNS = "tests/trainer/test_ties.py"

TIES = [
    Mutant(
        name="ties-weigh-nothing-in-the-sum",
        breaks="Davidson-Luce's sum over sets forgets nu: chances no longer add up to one",
        file="trainer/formulas/losses.py",
        old="return own + with_singles(log_nu)",
        new="return own",
        tests=(
            f"{FORMULAS}::test_chances_are_those_of_every_choice_written_out_and_add_up_to_one",
            f"{FORMULAS}::test_two_candidates_are_davidsons_model",
        ),
    ),
    Mutant(
        name="ties-without-the-root",
        breaks="a tie's weight is the product of strengths, not its root",
        file="trainer/formulas/losses.py",
        old="(rewards[:, index, None] / orders)",
        new="(rewards[:, index, None] * torch.ones_like(orders))",
        tests=(f"{FORMULAS}::test_two_candidates_are_davidsons_model",),
    ),
    Mutant(
        name="nu-at-the-models-rate",
        breaks="the ties' parameters move at the model's learning rate",
        file="trainer/engine/fit.py",
        old='"lr_scale": beside_lr / lr',
        new='"lr_scale": 1.0',
        tests=(f"{RUNS}::test_ties_are_learned_at_their_own_rate_without_decay",),
    ),
    Mutant(
        name="nu-decays",
        breaks="weight decay draws the ties' parameters to 1",
        file="trainer/engine/fit.py",
        old='{"params": own, "weight_decay": 0.0,',
        new='{"params": own, "weight_decay": config.weight_decay,',
        tests=(f"{RUNS}::test_ties_are_learned_at_their_own_rate_without_decay",),
    ),
    Mutant(
        name="nu-forgotten-at-resume",
        breaks="a run that goes on begins again with the first values of the ties' parameters",
        file="trainer/engine/fit.py",
        old='self.load_beside(state["beside"])',
        new="pass",
        tests=(f"{RUNS}::test_fitted_ties_are_saved_named_judged_by_and_resumed_to_the_bit",),
    ),
    Mutant(
        name="evaluate-without-nu",
        breaks="evaluate judges a model with ties' parameters as one without",
        file="trainer/evaluate.py",
        old="ranking_figures(rankings, means, log_nu)",
        new="ranking_figures(rankings, means)",
        tests=(f"{RUNS}::test_fitted_ties_are_saved_named_judged_by_and_resumed_to_the_bit",),
    ),
]
