"""Supervised fine-tuning: imitate demonstrations, with the loss on the assistant's turns alone.

Ouyang et al. 2022, section 3.5. Every assistant turn of a conversation, its end token included, is a
target once, given all that stands before it; prompts and padding carry no loss. The mean is over tokens.

With `--packing` rows of `--max-length` are filled with several examples each, that do not see each other;
a batch then has `--batch-size` rows.

    python -m trainer sft --data EXPORT --model MODEL --out RUN --epochs 2
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.data.examples import Demonstration
from trainer.data.files import read_demonstrations
from trainer.engine.batches import Batches
from trainer.engine.distributed import Processes
from trainer.engine.learner import Learner, Sums
from trainer.engine.models import (
    choose_device,
    count_parameters,
    fit_window,
    load_policy,
    make_repeatable,
)
from trainer.engine.onednn import linear_library
from trainer.engine.responses import response_token_logprobs
from trainer.engine.shared_prefix import Tree, fill_rows, pack, plant
from trainer.engine.tokens import Encoder, load_tokenizer
from trainer.errors import TrainerError
from trainer.formulas.schedules import default_lr, linear_to_zero
from trainer.run.artifacts import finish
from trainer.run.directory import Run
from trainer.run.files import hash_model_files
from trainer.settings.sft import SFTConfig

# As many rows are looked at along the way; the end is measured on all of them.
VALIDATION_ROWS = 256
Row = list[Tree]  # (prompt, [response]) of one example, or of several


def main(config: SFTConfig) -> dict[str, Any]:
    """Fine-tune; the result is also in result.json."""
    processes = Processes(choose_device(config.device))
    make_repeatable(config.seed, processes.device)
    data = read_demonstrations(config.data)
    tokenizer = load_tokenizer(config.model)

    def load() -> Any:
        return load_policy(config.model, tokenizer, processes.device)

    policy = load()
    encoder = Encoder(tokenizer, fit_window(config.max_length, policy))
    pad = tokenizer.pad_token_id
    train = to_rows(encode(encoder, data["train"]), config.packing, encoder.max_length)
    held_out = to_rows(encode(encoder, data["validation"]), config.packing, encoder.max_length)
    if not train:
        raise TrainerError(f"{config.data}: has no demonstrations to train on")
    lr = config.lr or default_lr(1e-5, 6e9, count_parameters(policy))
    total = config.steps or max(1, round(config.epochs * len(train) / config.batch_size))
    facts = {
        "data_hash": data.hash,
        "model_hash": hash_model_files(config.model),
        "lr": lr,
        "linear": linear_library(),
        "window": encoder.max_length,
    }
    learner = Learner(
        policy,
        config,
        processes,
        lr=lr,
        loss_of=lambda model, rows: summed_loss(model, rows, pad),
        weight_of=count_targets,
    )
    order = Batches(
        len(train), config.batch_size, seed=config.seed, lengths=[*map(count_tokens, train)]
    )
    with Run("sft", config, facts, processes) as run:
        learner.load_state(run.open(total))
        for step in run.steps():
            if learner.has_enough:
                break
            rate = lr * linear_to_zero(step, total, warmup=min(20, total // 10))
            figures = learner.step([train[index] for index in order(step)], lr=rate)
            if held_out and learner.looks(step, total):
                figures["validation_loss"] = mean_loss(policy, held_out[:VALIDATION_ROWS], pad)
                learner.note(step, figures["validation_loss"])
            run.log(step, **figures)
            if run.wants_checkpoint(step, learner.has_enough):
                run.save_checkpoint(step, learner.state())
        result: dict[str, Any] = {
            "stage": "sft",
            "steps": run.last_step,
            **learner.take_best(),
            "train_examples": sum(map(len, train)),
            "train_loss": mean_loss(policy, train[:VALIDATION_ROWS], pad),
            "validation_loss": mean_loss(policy, held_out, pad) if held_out else None,
            "left_out": {**data.left_out, **encoder.cut},
        }
        if config.packing:
            result["rows"] = len(train)
        finish(
            run,
            model=learner.whole_model(load),
            tokenizer=tokenizer,
            result=result,
        )
    return result


def encode(encoder: Encoder, demonstrations: Sequence[Demonstration]) -> list[Tree]:
    """The tokens before and of every assistant turn."""
    found: list[Tree] = []
    for each in demonstrations:
        for place, message in enumerate(each.messages):
            if message["role"] == "assistant" and place:
                prompt, response = encoder.pair(each.messages[:place], message["content"])
                found.append((prompt, [response]))
    return found


def to_rows(examples: Sequence[Tree], packing: bool, longest: int) -> list[Row]:
    """The examples, each in a row of its own or packed."""
    if not packing:
        return [[each] for each in examples]
    sizes = [count_tokens([each]) for each in examples]
    return [[examples[index] for index in row] for row in fill_rows(sizes, longest)]


def count_tokens(row: Row) -> int:
    """How long a row is."""
    return sum(len(prompt) + len(response) for prompt, (response,) in row)


def count_targets(row: Row) -> int:
    """How many tokens of a row carry a loss."""
    return sum(len(response) for _, (response,) in row)


def summed_loss(policy: Any, rows: Sequence[Row], pad: int) -> tuple[Tensor, Sums]:
    """The negative log-likelihood of all response tokens of some rows."""
    if all(len(row) == 1 for row in rows):
        forest = plant([tree for row in rows for tree in row], policy, pad)
    else:
        forest = pack(rows, next(policy.parameters()).device, pad)
    return -response_token_logprobs(policy, forest).sum(), {}


def mean_loss(policy: Any, rows: Sequence[Row], pad: int, *, batch_size: int = 32) -> float:
    """The mean loss, over all response tokens of some rows."""
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            lost, _ = summed_loss(policy, rows[start : start + batch_size], pad)
            total += float(lost.double())
    return total / sum(map(count_targets, rows))
