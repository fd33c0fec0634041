"""Supervised fine-tuning: imitate demonstrations, with the loss on the assistant's turns alone.

Ouyang et al. 2022, section 3.5. Every assistant turn of a conversation, its end token included, is a
target once, given all that stands before it; prompts and padding carry no loss. The mean is over tokens.

With `--packing` rows of `--max-length` are filled with several examples each, that do not see each other;
a batch then has `--batch-size` rows.

    python -m trainer sft --data EXPORT --model MODEL --out RUN --epochs 2
"""

from collections.abc import Sequence
from functools import partial

import torch

from trainer.data.examples import TOOLS, Demonstration, Tally
from trainer.data.files import read_demonstrations
from trainer.data.messages import is_said
from trainer.data.values import JsonObject, Result
from trainer.engine.capabilities import can_pack
from trainer.engine.distributed import Processes
from trainer.engine.encoding import encode_all, figures_of_left_out, nothing_left
from trainer.engine.fit import Learner, SummedLoss, Validation, fit
from trainer.engine.models import (
    choose_device,
    count_parameters,
    fit_window,
    load_policy,
    make_repeatable,
)
from trainer.engine.prepare import plain_model
from trainer.engine.protocols import Policy
from trainer.engine.provenance import provenance_of
from trainer.engine.responses import response_token_logprobs
from trainer.engine.shared_prefix import (
    PromptResponses,
    build_batch,
    build_packed_batch,
    fill_rows,
)
from trainer.engine.tokens import Encoder, load_tokenizer
from trainer.engine.usage import describe_answering
from trainer.formulas.schedules import count_steps
from trainer.run.artifacts import write_artifacts
from trainer.run.directory import Run
from trainer.run.progress import tell_left_out
from trainer.settings.rates import choose_lr
from trainer.settings.sft import SFTConfig

# Validation on so many rows along the way; the end is measured on all of them.
VALIDATION_ROWS = 256
Row = list[PromptResponses]  # (prompt, [response]) of one example, or of several


def main(config: SFTConfig) -> Result:
    """Fine-tune; the result is also in result.json."""
    processes = Processes(choose_device(config.device))
    processes.check_batch(config.batch_size)
    make_repeatable(config.seed, processes.device)
    data = read_demonstrations(config.data)
    tokenizer = load_tokenizer(config.model)

    def load() -> Policy:
        return load_policy(config.model, tokenizer, processes.loading_device(config.shard))

    policy = load()
    encoder = Encoder(tokenizer, fit_window(config.max_length, policy))
    pad = tokenizer.pad_token_id
    packing = config.packing and can_pack(policy, encoder.max_length)
    train, held_out = (
        to_rows(encode(encoder, data[split], data.left_out), packing, encoder.max_length)
        for split in ("train", "validation")
    )
    if not train:
        raise nothing_left(config.data, "demonstrations to train on", data.left_out)
    tell_left_out("sft", data.left_out, speaks=processes.first)
    lr, lr_source = choose_lr(
        config.lr, "sft", count_parameters(policy), lora=bool(config.lora_rank)
    )
    steps = count_steps(config.steps, config.epochs, len(train), config.batch_size)
    provenance = provenance_of(config, data, lr=lr, lr_source=lr_source, window=encoder.max_length)
    learner = Learner(
        policy,
        config,
        processes,
        lr=lr,
        sum_losses=lambda model, rows: sum_losses(model, rows, pad),
        weight_of=count_targets,
    )

    def validate(model: Policy) -> Validation:
        loss = mean_loss(model, held_out[:VALIDATION_ROWS], pad)
        return Validation(loss, {"validation_loss": loss})

    with Run("sft", config, provenance, processes) as run:
        best = fit(
            run,
            learner,
            train,
            steps=steps,
            length_of=count_tokens,
            validate=validate if held_out else None,
        )
        result: JsonObject = {
            "stage": "sft",
            "steps": run.last_step,
            **best,
            "train_examples": sum(map(len, train)),
            "train_loss": mean_loss(policy, train[:VALIDATION_ROWS], pad),
            "validation_loss": mean_loss(policy, held_out, pad) if held_out else None,
            **figures_of_left_out(data.left_out, encoder, config.max_length),
        }
        if config.packing:
            result["packing"] = packing  # false where documents of a row would see each other
            result["rows"] = len(train)
        write_artifacts(
            run,
            model=plain_model(policy, load, config),
            tokenizer=tokenizer,
            result=result,
            usage=describe_answering(tokenizer),
        )
    return result


def encode(
    encoder: Encoder, demonstrations: Sequence[Demonstration], tally: Tally | None = None
) -> list[PromptResponses]:
    """The tokens before and of every assistant turn."""
    tally = Tally() if tally is None else tally
    turns = encode_all(encoder, demonstrations, partial(encode_turns, encoder), tally)
    calls = sum("tool_calls" in message for each in demonstrations for message in each.messages)
    tally.add("call of a tool, read and not learnt", calls)
    return [each for some in turns for each in some]


def encode_turns(encoder: Encoder, demonstration: Demonstration) -> list[PromptResponses]:
    """The tokens before and of every assistant turn that answers anything in words."""
    examples: list[PromptResponses] = []
    messages = demonstration.messages
    for turn, message in enumerate(messages):
        if is_said(message) and any(each["role"] != TOOLS for each in messages[:turn]):
            prompt, response = encoder.pair(messages[:turn], message["content"])
            examples.append((prompt, [response]))
    return examples


def to_rows(examples: Sequence[PromptResponses], packing: bool, row_length: int) -> list[Row]:
    """The examples, each in a row of its own or packed."""
    if not packing:
        return [[each] for each in examples]
    sizes = [count_tokens([each]) for each in examples]
    return [[examples[index] for index in row] for row in fill_rows(sizes, row_length)]


def count_tokens(row: Row) -> int:
    """How long a row is."""
    return sum(len(prompt) + len(response) for prompt, (response,) in row)


def count_targets(row: Row) -> int:
    """How many tokens of a row carry a loss."""
    return sum(len(response) for _, (response,) in row)


def sum_losses(policy: Policy, rows: Sequence[Row], pad: int) -> SummedLoss:
    """The negative log-likelihood of all response tokens of some rows."""
    if all(len(row) == 1 for row in rows):
        batch = build_batch([example for row in rows for example in row], policy, pad)
    else:
        batch = build_packed_batch(rows, next(policy.parameters()).device, pad)
    return SummedLoss(-response_token_logprobs(policy, batch).sum(), {})


def mean_loss(policy: Policy, rows: Sequence[Row], pad: int, *, batch_size: int = 32) -> float:
    """The mean loss, over all response tokens of some rows."""
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            total += float(sum_losses(policy, rows[start : start + batch_size], pad).loss.double())
    return total / sum(map(count_targets, rows))
