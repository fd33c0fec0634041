"""One measurement of TRL's trainers, in an environment of its own: bench/peers.py starts it.

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
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer


def read_rows(path: str) -> Dataset:
    """The comparisons, in the conversational preference format."""
    with Path(path).open() as lines:
        rows = [json.loads(line) for line in lines]
    names = ("prompt", "chosen", "rejected")
    return Dataset.from_list([{name: row[name] for name in names} for row in rows])


def settings(job: dict[str, Any]) -> dict[str, Any]:
    """What both trainers take."""
    return {
        "output_dir": job["out"],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": job["batch_size"],
        "max_length": job["max_length"],
        "max_steps": job["steps"],
        "learning_rate": job["lr"],
        "lr_scheduler_type": "linear",
        "adam_epsilon": 1e-8,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": job.get("seed", 0),
    }


def main() -> None:
    """Train as the job says; the first loss, the seconds of training, and the memory's peak."""
    job = json.load(sys.stdin)
    torch.set_num_threads(job["threads"])
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    rows = read_rows(job["data"])
    if job["what"] == "reward":
        model = AutoModelForSequenceClassification.from_pretrained(
            job["model"], num_labels=1, dtype=torch.float32
        )
        trainer: Any = RewardTrainer(
            model=model,
            args=RewardConfig(**settings(job)),
            processing_class=tokenizer,
            train_dataset=rows,
        )
    else:
        policy, reference = (
            AutoModelForCausalLM.from_pretrained(job[name], dtype=torch.float32)
            for name in ("model", "reference")
        )
        trainer = DPOTrainer(
            model=policy,
            ref_model=reference,
            args=DPOConfig(beta=job["beta"], **settings(job)),
            processing_class=tokenizer,
            train_dataset=rows,
        )
    row = trainer.train_dataset[0]
    ids = {name: row[name] for name in row if name.endswith("ids")}
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    if job.get("save"):
        trainer.save_model(job["save"])
    losses = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"losses": losses, "seconds": seconds, "peak_mib": peak, "first_ids": ids}))


if __name__ == "__main__":
    main()
