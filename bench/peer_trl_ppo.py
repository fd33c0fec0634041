"""One measurement of TRL's PPO, in an environment of its own: bench/peers_ppo.py starts it.

Reads a job as JSON from stdin and prints a JSON object as its last line. Settings are those that the peers'
own documents give for a CPU: no bf16 autocast, no gradient checkpointing, nothing reported or saved.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

# Where the statistics of each optimiser step come in the row of those that are gathered for the log.
POLICY_LOSS, VALUE_LOSS = 2, 3


class Clock(TrainerCallback):
    """When each update began, had its samples, had its advantages, and ended."""

    def __init__(self) -> None:
        self.began = self.sampled = self.collected = self.cpu = 0.0
        self.splits: list[dict[str, float]] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """The first update begins."""
        self.began, self.cpu = time.perf_counter(), time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """An update has ended, and the next begins."""
        now, cpu = time.perf_counter(), time.process_time()
        self.splits.append(
            {
                "sampling": self.sampled - self.began,
                "scoring": self.collected - self.sampled,
                "update": now - self.collected,
                "all": now - self.began,
                "cpu": cpu - self.cpu,
            }
        )
        self.began, self.cpu = now, cpu

    def watch(self) -> None:
        """Look at the clock where TRL's module samples and where it whitens (advantages come last)."""
        generate, whiten = ppo_trainer.batch_generation, ppo_trainer.masked_whiten

        def timed_generation(*given: Any, **named: Any) -> Any:
            found = generate(*given, **named)
            self.sampled = time.perf_counter()
            return found

        def timed_whiten(*given: Any, **named: Any) -> Any:
            found = whiten(*given, **named)
            self.collected = time.perf_counter()
            return found

        ppo_trainer.batch_generation = timed_generation
        ppo_trainer.masked_whiten = timed_whiten


def give_responses(responses: dict[tuple[int, ...], list[int]], temperature: float) -> None:
    """Let TRL take the responses that it is given for each prompt, in place of its own samples.

    The losses of two programs can be compared on the same responses alone, and no seed makes two samplers
    agree. So `batch_generation` of TRL's module is replaced: it looks the responses up and gives, as TRL's
    own does, the logits that sampling would have seen, here from TRL's own forward pass.
    """

    @torch.no_grad()
    def look_up(
        model: Any, queries: torch.Tensor, _size: int, pad: int, _config: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [responses[tuple(each for each in row if each != pad)] for row in queries.tolist()]
        whole = torch.cat([queries, torch.tensor(rows)], dim=1)
        logits = ppo_trainer.forward(model, whole, pad).logits[:, queries.shape[1] - 1 : -1]
        return whole, logits / (temperature + 1e-7)

    ppo_trainer.batch_generation = look_up


def take_biased_variance() -> None:
    """Let TRL whiten as ours does, by the biased variance, to see that nothing else differs."""
    unbiased = ppo_trainer.masked_var
    ppo_trainer.masked_var = lambda values, mask: unbiased(values, mask, unbiased=False)


def settings(job: dict[str, Any]) -> PPOConfig:
    """TRL's configuration of the job: one minibatch, one process, `micro_batch` episodes in a pass."""
    micro_batch = job.get("micro_batch") or job["batch_size"]
    return PPOConfig(
        output_dir=job["out"],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=job["batch_size"] // micro_batch,
        local_rollout_forward_batch_size=micro_batch,
        num_mini_batches=1,
        num_ppo_epochs=job["epochs"],
        total_episodes=job["batch_size"] * job["updates"],
        response_length=job["length"],
        stop_token="eos",
        temperature=job["temperature"],
        missing_eos_penalty=job["missing_eos_penalty"],
        whiten_rewards=job["whiten_rewards"],
        kl_coef=job["kl_coef"],
        kl_estimator="k1",
        cliprange=job["clip"],
        cliprange_value=job["value_clip"],
        # Ours adds the two losses as they are (the models share nothing): 1 gives the same gradients.
        vf_coef=1.0,
        gamma=job["gamma"],
        lam=job["lam"],
        learning_rate=job["lr"],
        lr_scheduler_type="linear",
        adam_epsilon=1e-5,
        weight_decay=0.0,
        num_sample_generations=0,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=job.get("seed", 0),
    )


def make_trainer(job: dict[str, Any], rows: list[dict[str, Any]], clock: Clock) -> PPOTrainer:
    """TRL's trainer with its four models."""
    tokenizer = AutoTokenizer.from_pretrained(job["policy"], padding_side="left")
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(job[name], dtype=torch.float32)
        for name in ("policy", "reference")
    )
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(
            job["reward"], num_labels=1, dtype=torch.float32
        )
        for _ in range(2)
    )
    return PPOTrainer(
        args=settings(job),
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_list([{"input_ids": row["ids"]} for row in rows]),
        callbacks=[clock],
    )


def record_steps(trainer: PPOTrainer) -> list[list[float]]:
    """A list that gets (policy loss, value loss) of each optimiser step as TRL gathers them for its log."""
    gather, steps = trainer.accelerator.gather_for_metrics, list[list[float]]()
    seen: list[torch.Tensor] = []

    def gather_and_note(value: torch.Tensor) -> Any:
        if value.dim() == 3:  # (epochs, minibatches, accumulations): one number an optimiser step
            seen.append(value.flatten().clone())
            if len(seen) == VALUE_LOSS + 1:
                pairs = zip(seen[POLICY_LOSS].tolist(), seen[VALUE_LOSS].tolist(), strict=True)
                steps.extend(map(list, pairs))
        return gather(value)

    trainer.accelerator.gather_for_metrics = gather_and_note
    return steps


def main() -> None:
    """Train as the job says; the first update's losses, the seconds of each update, the memory's peak."""
    job = json.load(sys.stdin)
    torch.set_num_threads(job["threads"])
    rows = [json.loads(line) for line in Path(job["prompts"]).read_text().splitlines()]
    if job["biased_variance"]:
        take_biased_variance()
    if job["responses"]:
        given = json.loads(Path(job["responses"]).read_text())
        prompts = (tuple(row["ids"]) for row in rows)
        give_responses(dict(zip(prompts, given, strict=True)), job["temperature"])
    clock = Clock()
    clock.watch()
    trainer = make_trainer(job, rows, clock)
    steps = record_steps(trainer)
    trainer.train()
    if job.get("save"):
        trainer.model.policy.save_pretrained(job["save"])
        trainer.processing_class.save_pretrained(job["save"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"steps": steps, "splits": clock.splits, "peak_mib": peak}))


if __name__ == "__main__":
    main()
