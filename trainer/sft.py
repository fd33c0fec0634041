"""Supervised fine-tuning: imitate demonstrations, with the loss on the assistant's turns alone.

Ouyang et al. 2022, section 3.5. Every assistant turn of a conversation, its end token included, is a
target once, given all that stands before it; prompts and padding carry no loss. The mean is over tokens.

    python -m trainer sft --data EXPORT --model MODEL --out RUN --epochs 2
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import TrainingConfig, default_lr, flag, parse
from trainer.data import Demonstration, read_demonstrations
from trainer.errors import TrainerError
from trainer.losses import masked_mean, token_logprobs
from trainer.models import (
    Encoder,
    choose_device,
    count_parameters,
    hidden_states,
    load_policy,
    load_tokenizer,
    make_repeatable,
    pad_right,
    save_model,
)
from trainer.report import write_report
from trainer.runs import Run, batches, hash_model_files, linear_to_zero


@dataclass(frozen=True, kw_only=True)
class SFTConfig(TrainingConfig):
    """Supervised fine-tuning on demonstrations."""

    weight_decay: float = flag(0.0, "decay of the weights")


def command(argv: list[str]) -> int:
    """Run from the command line."""
    example = "python -m trainer sft --data export --model model --out runs/sft --epochs 2"
    main(parse(SFTConfig, argv, stage="sft", example=example))
    return 0


def main(config: SFTConfig) -> dict[str, Any]:
    """Fine-tune; the result is also in result.json."""
    make_repeatable(config.seed)
    device = choose_device(config.device)
    data = read_demonstrations(config.data)
    tokenizer = load_tokenizer(config.model)
    policy = load_policy(config.model, tokenizer, device)
    encoder = Encoder(tokenizer, config.max_length)
    train = encode(encoder, data["train"])
    held_out = encode(encoder, data["validation"])
    if not train:
        raise TrainerError(f"{config.data}: has no demonstrations to train on")
    lr = config.lr or default_lr(1e-5, 6e9, count_parameters(policy))
    total = config.steps or max(1, round(config.epochs * len(train) / config.batch_size))
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=lr, eps=1e-5, weight_decay=config.weight_decay
    )
    facts = {"data_hash": data.hash, "model_hash": hash_model_files(config.model), "lr": lr}
    with Run("sft", config, facts) as run:
        state = run.open(total)
        if state:
            policy.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        for step in run.steps():
            chosen = batches(len(train), config.batch_size, seed=config.seed, step=step)
            rate = lr * linear_to_zero(step, total, warmup=min(20, total // 10))
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = batch_loss(policy, [train[index] for index in chosen], tokenizer.pad_token_id)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            run.log(step, loss=loss.item(), lr=rate, grad_norm=norm.item())
            if run.wants_checkpoint(step):
                saved = {"model": policy.state_dict(), "optimizer": optimizer.state_dict()}
                run.save_checkpoint(step, saved)
        result: dict[str, Any] = {
            "stage": "sft",
            "steps": total,
            "train_examples": len(train),
            "train_loss": mean_loss(policy, train[:512], tokenizer.pad_token_id),
            "validation_loss": mean_loss(policy, held_out, tokenizer.pad_token_id),
            "left_out": {**data.left_out, **encoder.cut},
        }
        save_model(policy, tokenizer, Path(config.out) / "model")
        write_report(
            Path(config.out) / "report.html",
            title="Supervised fine-tuning",
            metrics=run.read_metrics(),
            curves=[("loss", ["loss"]), ("gradient norm", ["grad_norm"])],
            result=result,
        )
        run.finish(result)
    return result


def encode(
    encoder: Encoder, demonstrations: list[Demonstration]
) -> list[tuple[list[int], list[int]]]:
    """(prompt, response) tokens of every assistant turn."""
    pairs = []
    for each in demonstrations:
        for place, message in enumerate(each.messages):
            if message["role"] == "assistant" and place:
                pairs.append(encoder.pair(each.messages[:place], message["content"]))
    return pairs


def batch_loss(policy: Any, pairs: list[tuple[list[int], list[int]]], pad: int) -> Tensor:
    """The mean negative log-likelihood of the response tokens of a batch."""
    device = next(policy.parameters()).device
    ids, mask = pad_right([prompt + response for prompt, response in pairs], pad, device)
    targets, _ = pad_right([[0] * len(p) + [1] * len(r) for p, r in pairs], 0, device)
    states = hidden_states(policy, ids, mask)[:, :-1]
    logits = policy.get_output_embeddings()(states)
    return masked_mean(-token_logprobs(logits, ids[:, 1:], 1.0), targets[:, 1:].float())


def mean_loss(
    policy: Any, pairs: list[tuple[list[int], list[int]]], pad: int, *, batch_size: int = 32
) -> float | None:
    """The mean loss over examples that are not trained on; None where there are none."""
    if not pairs:
        return None
    total = tokens = 0.0
    with torch.no_grad():
        for start in range(0, len(pairs), batch_size):
            some = pairs[start : start + batch_size]
            count = sum(len(response) for _, response in some)
            total += batch_loss(policy, some, pad).item() * count
            tokens += count
    return total / tokens
