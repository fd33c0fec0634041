"""Responses of a policy to prompts, in the import format, ready to be ranked.

python -m trainer generate --model MODEL --data PROMPTS --out candidates.jsonl --candidates 4
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.config import flag, parse
from trainer.data import SPLITS, read_prompts
from trainer.errors import UsageError
from trainer.models import Encoder, choose_device, load_policy, load_tokenizer, make_repeatable
from trainer.rollout import decode, sample


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Responses of a policy to prompts."""

    model: str = flag(..., "the policy: a path or an id")
    data: str = flag(..., "prompts: an import file, or an export")
    out: str = flag(..., "the file to write")
    candidates: int = flag(4, "responses to each prompt")
    policy_name: str | None = flag(None, "the policy's name in the file [default: the model's]")
    limit: int | None = flag(None, "only the first so many prompts")
    max_length: int = flag(512, "tokens of prompt and response together")
    response_length: int = flag(128, "the longest response, in tokens")
    temperature: float = flag(1.0, "of sampling; 0 takes the likeliest tokens")
    batch_size: int = flag(64, "responses at a time")
    seed: int = flag(0, "seed of sampling")
    device: str = flag("auto", "auto, cpu or cuda")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not 1 <= self.candidates <= 9:
            raise UsageError("--candidates must be 1 to 9")
        if self.response_length >= self.max_length:
            raise UsageError("--response-length leaves no room for a prompt in --max-length")


def command(argv: list[str]) -> int:
    """Run from the command line."""
    example = "python -m trainer generate --model model --data prompts.jsonl --out candidates.jsonl"
    print(json.dumps(main(parse(GenerateConfig, argv, stage="generate", example=example))))  # noqa: T201
    return 0


def main(config: GenerateConfig) -> dict[str, Any]:
    """Write the file; how many prompts and responses it holds."""
    make_repeatable(config.seed)
    device = choose_device(config.device)
    data = read_prompts(config.data)
    prompts = [row for split in SPLITS for row in data[split]][: config.limit]
    tokenizer = load_tokenizer(config.model)
    policy = load_policy(config.model, tokenizer, device)
    encoder = Encoder(tokenizer, config.max_length)
    room = config.max_length - config.response_length
    rows = [
        encoder.prompt(each.messages, room) for each in prompts for _ in range(config.candidates)
    ]
    stream = torch.Generator().manual_seed(config.seed)
    texts: list[str] = []
    for start in range(0, len(rows), config.batch_size):
        rollout = sample(
            policy,
            rows[start : start + config.batch_size],
            length=config.response_length,
            temperature=config.temperature,
            end=tokenizer.eos_token_id,
            pad=tokenizer.pad_token_id,
            stream=stream,
        )
        texts += decode(tokenizer, rollout)
    name = config.policy_name or Path(config.model).name
    fresh = Path(f"{config.out}.new")
    with fresh.open("w") as file:
        for place, prompt in enumerate(prompts):
            own = texts[place * config.candidates : (place + 1) * config.candidates]
            row: dict[str, Any] = {"prompt": prompt.messages}
            if prompt.id:
                row["id"] = prompt.id
            row["candidates"] = [{"text": text, "policy": name} for text in own]
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    fresh.rename(config.out)
    return {"prompts": len(prompts), "responses": len(texts), "out": config.out}
