"""Mistakes in what several processes do together."""

from tests.mutants.mutant import Mutant

TESTS = "tests/trainer/engine/test_distributed.py"
EVERY = f"{TESTS}::test_every_combination_works_as_one_process_or_is_refused_at_the_start"
TWO = f"{TESTS}::test_two_processes_give_the_losses_of_one[reward]"
SERVER = "tests/trainer/rl/test_vllm_client.py"

DISTRIBUTED = [
    Mutant(
        name="gradients-of-one-process",
        breaks="each process steps along the gradient of its own share",
        file="trainer/engine/distributed.py",
        old="        dist.all_reduce(flat)\n",
        new="",
        tests=(TWO,),
    ),
    Mutant(
        name="divided-gradients-are-means",
        breaks="gradients of divided layers are means over the processes, all others sums",
        file="trainer/engine/distributed.py",
        old="each.grad.mul_(self.count)",
        new="pass",
        tests=(TWO,),
    ),
    Mutant(
        name="norm-of-the-own-part",
        breaks="gradients are clipped by the norm of this process's part of them",
        file="trainer/engine/distributed.py",
        old="square = self.all_reduce(torch.nn.utils.get_total_norm(parts).square())",
        new="square = torch.nn.utils.get_total_norm(parts).square()",
        tests=(TWO,),
    ),
    Mutant(
        name="spare-passes-count",
        breaks="a row that is read for company alone is learnt from",
        file="trainer/engine/distributed.py",
        old="[(list(batch[:1]), 0.0)]",
        new="[(list(batch[:1]), 1.0)]",
        tests=(EVERY,),
    ),
    Mutant(
        name="laid-out-rows-of-another-minibatch",
        breaks="where a minibatch has as many rows as a process had at first, it learns from those",
        file="trainer/ppo.py",
        old="if config.minibatches > 1 or wants_shards(config.shard):",
        new="if len(self.processes.share(rows)) != sum(len(each.rows) for each in micro_batches):",
        tests=(EVERY,),
    ),
    Mutant(
        name="ratio-variance-of-parts",
        breaks="the ratio's variance is taken about 1 instead of about its mean",
        file="trainer/ppo.py",
        old='square - (figures["ratio"] - 1) ** 2',
        new="square",
        tests=(
            "tests/trainer/engine/test_distributed.py::test_the_ratios_variance_is_over_all_tokens",
        ),
    ),
    Mutant(
        name="frozen-models-stay-whole",
        breaks="--shard divides what is trained alone",
        file="trainer/engine/prepare.py",
        old="if wants_shards(config.shard):",
        new="if trainable and wants_shards(config.shard):",
        tests=(f"{TESTS}::test_no_two_models_are_whole_at_once[ppo]",),
    ),
    Mutant(
        name="resume-by-place",
        breaks="the optimiser's moments are taken by their place, which other processes change",
        file="trainer/engine/optimizer.py",
        old='name: state["state"].get(index, {})',
        new='name: state["state"].get(len(state["state"]) - 1 - index, {})',
        tests=(f"{TESTS}::test_a_run_goes_on_with_another_number_of_processes[sft]",),
    ),
    Mutant(
        name="everybody-speaks",
        breaks="every process of a failed run says so",
        file="trainer/engine/distributed.py",
        old='.add("plackett/failed", 1) > 1',
        new='.add("plackett/failed", 1) < 0',
        tests=(f"{TESTS}::test_processes_that_were_given_different_settings_are_refused",),
    ),
    Mutant(
        name="adapters-by-folder-name",
        breaks="two runs of one name give a server adapters of one name",
        file="trainer/rl/vllm_client.py",
        old='self.prefix = f"{prefix}-{start}"',
        new="self.prefix = prefix",
        tests=(f"{SERVER}::test_runs_of_one_name_share_a_server_and_leave_nothing_on_it",),
    ),
    Mutant(
        name="every-process-publishes",
        breaks="each process gives the server its own copy of one adapter",
        file="trainer/rl/vllm_client.py",
        old="writes = self.processes.first\n",
        new="writes = True\n",
        tests=(f"{SERVER}::test_of_two_processes_one_publishes_and_both_ask",),
    ),
    Mutant(
        name="precision-of-the-launcher-ignored",
        breaks="accelerate's --mixed_precision is ignored without a word",
        file="trainer/settings/launcher.py",
        old='if precision != "no" and not same:',
        new='if precision == "fp8":',
        tests=(
            "tests/trainer/test_launcher.py::test_a_setting_that_is_not_carried_out_is_refused",
        ),
    ),
]
