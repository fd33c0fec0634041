"""The demo's own policy: a small story-teller, trained from nothing in about a minute on two cores.

No model hub can be counted on, so the demo makes its model: a byte-level BPE tokenizer and a Llama-style
network of about a million parameters, both from the little stories of `trainer.stories`. The number of
steps is chosen from the speed of the first few, so that the time is kept on slow and busy machines too;
`--steps` fixes it instead, and then the same seed gives the same model.

    python -m trainer tiny --out DIR --seconds 75
"""

import json
import math
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer import stories
from trainer.config import flag, parse
from trainer.errors import TrainerError, UsageError
from trainer.losses import masked_mean, token_logprobs
from trainer.models import count_parameters, hidden_states, make_repeatable, pad_right
from trainer.runs import linear_to_zero, progress

# Raised whenever the corpus, the tokenizer or the model changes: an older cached model is made anew.
TINY_VERSION = 1
BOS, END, PAD = "<|bos|>", "<|end|>", "<|pad|>"
ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WARMUP = 20
# Steps whose speed tells how many fit.
TIMED_FROM, TIMED_TO = 3, 13


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """The demo's little story-teller, from nothing."""

    out: str = flag(..., "the directory to make: model/, prompts.jsonl, info.json")
    seconds: float = flag(75.0, "time to train")
    steps: int | None = flag(None, "updates, instead of --seconds")
    seed: int = flag(0, "seed of corpus and training")
    corpus: int = flag(16_000, "stories to learn from")
    prompts: int = flag(200, "prompts to write, held out of the corpus")
    demonstrations: int = flag(0, "stories to write as demonstrations.jsonl too")
    vocabulary: int = flag(768, "tokens")
    width: int = flag(144, "of the network")
    layers: int = flag(4, "of the network")
    heads: int = flag(4, "of attention")
    batch_size: int = flag(32, "stories in an update")
    lr: float = flag(4e-3, "learning rate, falling to 0")
    threads: int = flag(2, "processor cores")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.seconds <= 0 or (self.steps is not None and self.steps < 1):
            raise UsageError("--seconds and --steps must be above 0")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise UsageError("--width must be an even multiple of --heads")
        if self.vocabulary < 300:
            raise UsageError("--vocabulary must be at least 300: 256 bytes and the special tokens")


def command(argv: list[str]) -> int:
    """Run from the command line."""
    example = "python -m trainer tiny --out .plackett/models/story-teller --seconds 75"
    config = parse(TinyConfig, argv, stage="tiny", example=example)
    print(json.dumps(main(config)))  # noqa: T201 - the interface
    return 0


def main(config: TinyConfig) -> dict[str, Any]:
    """Make the directory, whole or not at all; what info.json holds."""
    started = time.perf_counter()
    folder = Path(config.out)
    if folder.exists():
        raise UsageError(f"--out {folder}: is there already")
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    torch.set_num_threads(config.threads)
    make_repeatable(config.seed)
    told = stories.generate(config.seed, config.corpus)
    tokenizer = make_tokenizer(told, config.vocabulary)
    model = make_model(config, tokenizer)
    rows = encode(tokenizer, told)
    held_out = encode(tokenizer, stories.generate(config.seed + 1, 200, held_out=True))
    preparing = time.perf_counter() - started
    facts = train(model, rows, config, tokenizer.pad_token_id, spent=preparing)
    model.eval()
    facts["validation_loss"] = evaluate(model, held_out, tokenizer.pad_token_id)
    if not math.isfinite(facts["validation_loss"]):
        raise TrainerError("the story-teller did not learn: its loss is no number")
    tokenizer.save_pretrained(fresh / "model")
    model.save_pretrained(fresh / "model")
    write_prompts(fresh / "prompts.jsonl", config)
    write_demonstrations(fresh / "demonstrations.jsonl", config)
    info = {
        "version": TINY_VERSION,
        "parameters": count_parameters(model),
        **facts,
        "config": asdict(config),
        "torch": torch.__version__,
    }
    info["seconds"] = round(time.perf_counter() - started, 1)
    (fresh / "info.json").write_text(json.dumps(info, indent=2) + "\n")
    fresh.rename(folder)
    return info


def make_tokenizer(told: list[stories.Story], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer of the corpus: it can write anything, and reads whatever is typed."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    learner = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, END, *ROLE_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for each in told[:4000] for text in (each.prompt, each.response))
    plain.train_from_iterator(texts, learner)
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=list(ROLE_TOKENS),
        chat_template=TEMPLATE,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def make_model(config: TinyConfig, tokenizer: Any) -> Any:
    """A Llama-style network, untrained."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.width,
            intermediate_size=config.width * 3,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=200,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def encode(tokenizer: Any, told: list[stories.Story]) -> list[list[int]]:
    """Whole conversations as tokens: the prompt is learnt too, which teaches the words sooner."""
    texts = [f"{BOS}<|user|>{each.prompt}<|assistant|>{each.response}{END}" for each in told]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [list(ids) for ids in encoded]


def loss_of(model: Any, rows: list[list[int]], pad: int) -> Tensor:
    """The mean loss over all tokens of a batch."""
    ids, mask = pad_right(rows, pad, next(model.parameters()).device)
    logits = model.get_output_embeddings()(hidden_states(model, ids, mask)[:, :-1])
    return masked_mean(-token_logprobs(logits, ids[:, 1:], 1.0), mask[:, 1:].float())


def train(
    model: Any, rows: list[list[int]], config: TinyConfig, pad: int, *, spent: float
) -> dict[str, Any]:
    """Train for the steps, or the time, that were asked for."""
    # Stories of like length go together: less of a batch is padding.
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    groups = [
        order[start : start + config.batch_size]
        for start in range(0, len(order) - config.batch_size + 1, config.batch_size)
    ]
    stream = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=(0.9, 0.95), weight_decay=0.05
    )
    total = config.steps or TIMED_TO + 1
    started = time.perf_counter()
    mark = started
    tokens = 0
    last = 0.0
    step = 0
    bar: Any = None
    schedule: list[int] = []
    while step < total:
        step += 1
        if not schedule:
            schedule = torch.randperm(len(groups), generator=stream).tolist()
        batch = [rows[index] for index in groups[schedule.pop()]]
        tokens += sum(map(len, batch))
        rate = config.lr * (
            linear_to_zero(step, total, warmup=WARMUP)
            if bar or config.steps
            else min(1, step / WARMUP)
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(model, batch, pad)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        last = loss.item()
        now = time.perf_counter()
        if step == TIMED_FROM:
            mark = now
        if config.steps is None and step == TIMED_TO:
            each = (now - mark) / (TIMED_TO - TIMED_FROM)
            left = config.seconds - spent - (now - started)
            total = step + max(50, int(left / each))
        if bar is None and (config.steps or step == TIMED_TO):
            bar = progress(step, total, "story-teller")
        if bar is not None:
            next(bar, None)
        # A machine that grew busier than the first steps told: end the schedule where the time ends.
        if config.steps is None and step > TIMED_TO and step % 20 == 0:
            total = shorten(step, total, now - started, config.seconds - spent)
    for _ in bar or ():
        pass
    seconds = time.perf_counter() - started
    return {
        "steps": step,
        "train_loss": last,
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds),
    }


def shorten(step: int, total: int, spent: float, seconds: float) -> int:
    """The total that still fits; it never grows, so that the learning rate falls evenly to 0."""
    each = spent / step
    return min(total, step + max(1, int((seconds - spent) / each)))


def evaluate(model: Any, rows: list[list[int]], pad: int) -> float:
    """The mean loss on stories whose requests were held out."""
    with torch.no_grad():
        losses = [
            loss_of(model, rows[start : start + 50], pad) for start in range(0, len(rows), 50)
        ]
    return float(torch.stack(losses).mean())


def write_prompts(path: Path, config: TinyConfig) -> None:
    """Prompts for a queue, in the import format, whose requests are not in the corpus."""
    wanted = stories.generate(config.seed + 2, config.prompts * 3, held_out=True)
    once = list({each.prompt: each for each in wanted}.values())[: config.prompts]
    with path.open("w") as file:
        for number, each in enumerate(once, start=1):
            row = {"id": f"story-{number:04d}", "prompt": each.prompt, "metadata": each.attributes}
            file.write(json.dumps(row) + "\n")


def write_demonstrations(path: Path, config: TinyConfig) -> None:
    """Prompts with the grammar's own stories, for supervised fine-tuning."""
    if not config.demonstrations:
        return
    with path.open("w") as file:
        for each in stories.generate(config.seed + 3, config.demonstrations, held_out=True):
            messages = [
                {"role": "user", "content": each.prompt},
                {"role": "assistant", "content": each.response},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
