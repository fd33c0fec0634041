"""Supervised fine-tuning: imitate demonstrations, with the loss on the assistant's turns alone.

Ouyang et al. 2022, section 3.5. Every assistant turn of a conversation, its end token included, is a
target once, given all that stands before it; prompts and padding carry no loss. The mean is over tokens.

    python -m trainer sft --data EXPORT --model MODEL --out RUN --epochs 2
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.config import default_lr
from trainer.data import Demonstration, read_demonstrations
from trainer.errors import TrainerError
from trainer.losses import masked_mean
from trainer.models import (
    Encoder,
    choose_device,
    count_parameters,
    fit_window,
    load_policy,
    load_tokenizer,
    make_repeatable,
    response_logprobs,
    save_model,
)
from trainer.report import write_report
from trainer.runs import Batches, Run, hash_model_files, is_due, linear_to_zero, take_step
from trainer.stages import SFTConfig

# As many examples are looked at along the way; the end is measured on all of them.
VALIDATION_EXAMPLES = 256
Side = tuple[list[int], list[int]]  # prompt and response tokens


def main(config: SFTConfig) -> dict[str, Any]:
    """Fine-tune; the result is also in result.json."""
    device = choose_device(config.device)
    make_repeatable(config.seed, device)
    data = read_demonstrations(config.data)
    tokenizer = load_tokenizer(config.model)
    policy = load_policy(config.model, tokenizer, device)
    encoder = Encoder(tokenizer, fit_window(config.max_length, policy))
    pad = tokenizer.pad_token_id
    train = encode(encoder, data["train"])
    held_out = encode(encoder, data["validation"])
    if not train:
        raise TrainerError(f"{config.data}: has no demonstrations to train on")
    lr = config.lr or default_lr(1e-5, 6e9, count_parameters(policy))
    total = config.steps or max(1, round(config.epochs * len(train) / config.batch_size))
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=lr, eps=1e-5, weight_decay=config.weight_decay
    )
    facts = {
        "data_hash": data.hash,
        "model_hash": hash_model_files(config.model),
        "lr": lr,
        "window": encoder.max_length,
    }
    lengths = [len(prompt) + len(response) for prompt, response in train]
    order = Batches(len(train), config.batch_size, seed=config.seed, lengths=lengths)
    with Run("sft", config, facts) as run:
        state = run.open(total)
        if state:
            policy.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        for step in run.steps():
            chosen = order(step)
            rate = lr * linear_to_zero(step, total, warmup=min(20, total // 10))
            loss = batch_loss(policy, [train[index] for index in chosen], pad)
            norm = take_step(policy, optimizer, loss, lr=rate, longest=config.max_grad_norm)
            figures = {"loss": loss.item(), "lr": rate, "grad_norm": norm}
            if held_out and is_due(step, config.validate_every, total):
                seen = held_out[:VALIDATION_EXAMPLES]
                figures["validation_loss"] = mean_loss(policy, seen, pad)
            run.log(step, **figures)
            if run.wants_checkpoint(step):
                saved = {"model": policy.state_dict(), "optimizer": optimizer.state_dict()}
                run.save_checkpoint(step, saved)
        result: dict[str, Any] = {
            "stage": "sft",
            "steps": total,
            "train_examples": len(train),
            "train_loss": mean_loss(policy, train[:VALIDATION_EXAMPLES], pad),
            "validation_loss": mean_loss(policy, held_out, pad) if held_out else None,
            "left_out": {**data.left_out, **encoder.cut},
        }
        save_model(policy, tokenizer, Path(config.out) / "model")
        write_report(
            Path(config.out) / "report.html",
            title="Supervised fine-tuning",
            run=run,
            curves=[("loss", ["loss", "validation_loss"]), ("gradient norm", ["grad_norm"])],
            result=result,
        )
        run.finish(result)
    return result


def encode(encoder: Encoder, demonstrations: Sequence[Demonstration]) -> list[Side]:
    """(prompt, response) tokens of every assistant turn."""
    sides = []
    for each in demonstrations:
        for place, message in enumerate(each.messages):
            if message["role"] == "assistant" and place:
                sides.append(encoder.pair(each.messages[:place], message["content"]))
    return sides


def batch_loss(policy: Any, sides: Sequence[Side], pad: int) -> Tensor:
    """The mean negative log-likelihood of the response tokens of a batch."""
    logprobs, mask = response_logprobs(policy, sides, pad)
    return masked_mean(-logprobs, mask)


def mean_loss(policy: Any, sides: Sequence[Side], pad: int, *, batch_size: int = 32) -> float:
    """The mean loss, over all response tokens of some examples."""
    total = tokens = 0.0
    with torch.no_grad():
        for start in range(0, len(sides), batch_size):
            logprobs, mask = response_logprobs(policy, sides[start : start + batch_size], pad)
            total -= float((logprobs * mask).double().sum())
            tokens += float(mask.sum())
    return total / tokens
