"""Mistakes in what ties are to a reward model, and in what rewards, rates and judges are to a run."""

from tests.mutants.mutant import Mutant

FORMULAS = "tests/trainer/formulas/test_ties.py"
RUNS = "tests/trainer/test_ties.py"
SCALE = "tests/trainer/rl/test_scale.py"
RATES = "tests/trainer/test_rates.py"

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
    Mutant(
        name="rewards-not-divided-by-their-spread",
        breaks="the price of KL depends on the reward model's scale",
        file="trainer/rl/rewards.py",
        old="return scores / self.spread",
        new="return scores",
        tests=(f"{SCALE}::test_the_price_of_kl_means_the_same_for_rewards_ten_times_as_large",),
    ),
    Mutant(
        name="value-model-on-the-old-scale",
        breaks="the value model starts with rewards that are not normalised",
        file="trainer/ppo.py",
        old="scale_head(value_model, *first.scale)",
        new="pass",
        tests=(f"{SCALE}::test_the_price_of_kl_means_the_same_for_rewards_ten_times_as_large",),
    ),
    Mutant(
        name="measured-scale-forgotten-at-resume",
        breaks="a run that goes on takes rewards as they are",
        file="trainer/rl/trainer.py",
        old="each.take_scale(float(scale[0]), float(scale[1]), SAMPLED)",
        new="pass",
        tests=(
            f"{SCALE}::test_it_can_be_switched_off_and_is_taken_up_exactly_where_a_run_goes_on",
        ),
    ),
    Mutant(
        name="spread-over-all-rewards",
        breaks="what a prompt adds to all of its candidates counts as spread",
        file="trainer/reward.py",
        old="squares = sum(float((own - own.mean()).square().sum()) for own in rewards)",
        new="squares = sum(float((own - torch.cat([*rewards]).mean()).square().sum()) for own in rewards)",
        tests=(f"{SCALE}::test_the_spread_that_is_saved_is_the_one_among_a_prompts_candidates",),
    ),
    Mutant(
        name="climbed-judge-not-named",
        breaks="a held-out reward model that is the climbed one passes for another",
        file="trainer/rl/loop.py",
        old="climbed = any(each in reward_hashes for each in judges)",
        new="climbed = False and judges",
        tests=(f"{SCALE}::test_a_win_rate_says_whether_its_judge_was_climbed",),
    ),
    Mutant(
        name="adapters-at-the-rate-of-all-weights",
        breaks="--lora-rank gets the learning rate of full fine-tuning",
        file="trainer/settings/rates.py",
        old="and each.lora == lora",
        new="and not each.lora",
        tests=(f"{RATES}::test_adapters_never_get_the_rate_of_all_weights",),
    ),
]
