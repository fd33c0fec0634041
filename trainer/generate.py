"""Responses of a policy to prompts, in the import format, ready to be ranked.

python -m trainer generate --model MODEL --data PROMPTS --out candidates.jsonl --candidates 4
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from trainer.data.examples import SPLITS, Prompt
from trainer.data.files import read_prompts
from trainer.data.values import JsonObject, Result
from trainer.engine.capabilities import probe_sampling
from trainer.engine.conversations import arrange
from trainer.engine.encoding import encode_each, figures_of_left_out, nothing_left
from trainer.engine.models import (
    choose_device,
    ends_of,
    load_policy,
    make_repeatable,
    max_prompt_tokens_of,
)
from trainer.engine.tokens import Encoder, load_tokenizer
from trainer.errors import TrainerError
from trainer.rl.rollout import decode, sample
from trainer.run.progress import tell_left_out
from trainer.settings.generate import GenerateConfig


def main(config: GenerateConfig) -> Result:
    """Write the file; how many prompts and responses it holds."""
    device = choose_device(config.device)
    make_repeatable(config.seed, device)
    data = read_prompts(config.data)
    left_out = data.left_out
    prompts = [row for split in SPLITS for row in data[split]][: config.limit]
    check_ids(prompts)
    tokenizer = load_tokenizer(config.model)
    policy = load_policy(config.model, tokenizer, device)
    probe_sampling(policy, config.model)
    max_prompt_tokens = max_prompt_tokens_of(config.max_length, config.response_length, policy)
    encoder = Encoder(tokenizer, max_prompt_tokens + config.response_length)
    answered: list[Prompt] = []
    rows: list[list[int]] = []
    encoded = encode_each(
        encoder, prompts, lambda each: encoder.prompt(each.messages, max_prompt_tokens), left_out
    )
    for prompt, ids in zip(prompts, encoded, strict=True):
        if ids is not None:
            answered.append(prompt)
            rows += [ids] * config.candidates
    if not answered:
        raise nothing_left(config.data, "prompts to answer", left_out)
    tell_left_out("generate", left_out)
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
        for index, prompt in enumerate(answered):
            own = texts[index * config.candidates : (index + 1) * config.candidates]
            turns, tools = arrange(prompt.messages)
            row: JsonObject = {"prompt": turns}
            if tools:
                row["tools"] = tools
            if prompt.id:
                row["id"] = prompt.id
            row["candidates"] = [{"text": text, "policy": name} for text in own]
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    fresh.rename(config.out)
    return {
        "prompts": len(answered),
        "responses": len(texts),
        "out": config.out,
        **figures_of_left_out(left_out, encoder, config.max_length),
    }


def check_ids(prompts: Sequence[Prompt]) -> None:
    """Raise TrainerError where two prompts have one id: whoever reads the file would take them for one."""
    seen: dict[str, Prompt] = {}
    for each in prompts:
        other = seen.setdefault(each.id, each) if each.id else each
        if other is not each:
            raise TrainerError(f"{each.source}: has the id {each.id!r} of {other.source}")
