"""Responses of a policy to prompts, in the import format, ready to be ranked.

python -m trainer generate --model MODEL --data PROMPTS --out candidates.jsonl --candidates 4
"""

import json
from pathlib import Path

import torch

from trainer.data.examples import SPLITS
from trainer.data.files import read_prompts
from trainer.data.values import JsonObject, Result
from trainer.engine.capabilities import probe_sampling
from trainer.engine.models import (
    choose_device,
    ends_of,
    load_policy,
    make_repeatable,
    max_prompt_tokens_of,
)
from trainer.engine.tokens import Encoder, load_tokenizer
from trainer.rl.rollout import decode, sample
from trainer.settings.generate import GenerateConfig


def main(config: GenerateConfig) -> Result:
    """Write the file; how many prompts and responses it holds."""
    device = choose_device(config.device)
    make_repeatable(config.seed, device)
    data = read_prompts(config.data)
    prompts = [row for split in SPLITS for row in data[split]][: config.limit]
    tokenizer = load_tokenizer(config.model)
    policy = load_policy(config.model, tokenizer, device)
    probe_sampling(policy, config.model)
    max_prompt_tokens = max_prompt_tokens_of(config.max_length, config.response_length, policy)
    encoder = Encoder(tokenizer, max_prompt_tokens + config.response_length)
    rows = [
        encoder.prompt(each.messages, max_prompt_tokens)
        for each in prompts
        for _ in range(config.candidates)
    ]
    stream = torch.Generator().manual_seed(config.seed)
    texts: list[str] = []
    for start in range(0, len(rows), config.batch_size):
        rollout = sample(
            policy,
            rows[start : start + config.batch_size],
            length=config.response_length,
            temperature=config.temperature,
            end=ends_of(policy),
            pad=tokenizer.pad_token_id,
            known=len(tokenizer),
            stream=stream,
        )
        texts += decode(tokenizer, rollout)
    name = config.policy_name or Path(config.model).name
    fresh = Path(f"{config.out}.new")
    with fresh.open("w") as file:
        for index, prompt in enumerate(prompts):
            own = texts[index * config.candidates : (index + 1) * config.candidates]
            row: JsonObject = {"prompt": [{**each} for each in prompt.messages]}
            if prompt.id:
                row["id"] = prompt.id
            row["candidates"] = [{"text": text, "policy": name} for text in own]
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    fresh.rename(config.out)
    return {"prompts": len(prompts), "responses": len(texts), "out": config.out}
