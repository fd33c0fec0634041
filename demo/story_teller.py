"""The demo's own policy: a small story-teller, trained from nothing in about a minute on two cores.

No model hub can be counted on, so the demo makes its model: a byte-level BPE tokenizer and a Llama-style
network of about a million parameters, both from the little stories of `demo.stories`. What is said about
a setting below was measured at equal time on two cores; the network is wide and shallow because that learns
soonest to keep a hero's name.

The learning rate is constant for the first half and falls linearly to 0 over the second. So half-way,
when the machine's speed is known, the number of steps is chosen to fill `--seconds`; a run with `--steps`
set to that number repeats it to the digit.

    python -m demo --out DIR --seconds 78
"""

import json
import math
import os
import platform
import random
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from demo import stories
from trainer.data.examples import Messages
from trainer.engine.models import choose_device, count_parameters, make_repeatable
from trainer.errors import TrainerError, UsageError
from trainer.run.files import write_json
from trainer.settings.flags import flag

# Raised whenever the corpus, the tokenizer or the model changes: an older cached model is made anew.
TINY_VERSION = 2
BOS, END, PAD = "<|bos|>", "<|end|>", "<|pad|>"
ROLES = ("system", "user", "assistant")
ROLE_TOKENS = tuple(f"<|{role}|>" for role in ROLES)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTEXT = 512
# The longest story is 140 tokens: one that goes on longer has lost its thread.
MAX_NEW_TOKENS = 160
SYSTEM_MESSAGES = (
    "You tell little stories.",
    "You are a helpful assistant.",
    "You are a story-teller who follows what is asked.",
)
WARMUP_STEPS = 20
# Under load the second half may take longer than the first; beyond this share over time it is cut short.
PATIENCE = 1.1
# Validation and saving, set aside from --seconds.
CLOSING_SECONDS = 2.0
# A network this young spreads a few per cent of its probability over nonsense. Its logits are sharpened
# once, after training, so that plain sampling at temperature 1 reads well.
SHARPENING = 1.15


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """The demo's little story-teller, from nothing."""

    out: str = flag(..., "the directory to make: model/, prompts.jsonl, info.json")
    seconds: float = flag(78.0, "wall time for all of it, from corpus to saved model")
    steps: int | None = flag(None, "updates, instead of --seconds")
    seed: int = flag(0, "seed of corpus and training")
    device: str = flag("cpu", "auto, cpu or cuda")
    corpus: int = flag(14_000, "stories to learn from")
    prompts: int = flag(200, "prompts to write, held out of the corpus")
    demonstrations: int = flag(0, "stories to write as demonstrations.jsonl too")
    vocabulary: int = flag(1536, "tokens at most; at this size nearly every word is one")
    width: int = flag(192, "of the network")
    layers: int = flag(2, "of the network")
    heads: int = flag(6, "of attention")
    batch_size: int = flag(16, "stories in an update")
    lr: float = flag(3e-3, "learning rate")
    threads: int = flag(2, "processor cores")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.seconds <= 0 or (self.steps is not None and self.steps < 1):
            raise UsageError("--seconds and --steps must be above 0")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise UsageError("--width must be an even multiple of --heads")
        if self.vocabulary < 300:
            raise UsageError("--vocabulary must be at least 300: 256 bytes and the special tokens")
        if self.batch_size < 1 or self.corpus < self.batch_size:
            raise UsageError("--corpus must be at least --batch-size, and that at least 1")
        if self.threads < 1:
            raise UsageError(f"--threads must be at least 1, not {self.threads}")
        if min(self.prompts, self.demonstrations, self.seed) < 0:
            raise UsageError("--prompts, --demonstrations and --seed must not be negative")


@dataclass(frozen=True)
class Row:
    """One conversation as tokens, and which of them are learned (the assistant's, with their end)."""

    ids: list[int]
    learned: list[bool]


def main(config: TinyConfig) -> dict[str, Any]:
    """Make the directory, whole or not at all; return what its info.json holds.

    Raises UsageError where the directory is there already, TrainerError where training diverged.
    """
    folder = Path(config.out)
    if folder.exists():
        raise UsageError(f"--out {folder}: is there already")
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        info = _make(config, fresh)
        fresh.rename(folder)
    except BaseException:  # an interrupt too leaves nothing behind
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return info


def _make(config: TinyConfig, folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    device = choose_device(config.device)
    torch.set_num_threads(config.threads)
    make_repeatable(config.seed)
    told = stories.generate(config.seed, config.corpus)
    tokenizer = make_tokenizer(told, config.vocabulary)
    model = make_model(config, tokenizer).to(device)
    rows = encode(tokenizer, conversations(told, random.Random(config.seed)))  # noqa: S311
    held_out = stories.generate(config.seed + 1, 128, held_out=True)
    deadline = started + config.seconds - CLOSING_SECONDS
    facts = train(model, rows, config, deadline=deadline)
    model.eval()
    validation = evaluate(model, encode(tokenizer, [as_messages(each) for each in held_out]))
    if not math.isfinite(validation):
        raise TrainerError("the story-teller did not learn: its loss is no number")
    sharpen(model, SHARPENING)
    tokenizer.save_pretrained(folder / "model")
    model.save_pretrained(folder / "model")
    write_prompts(folder / "prompts.jsonl", config)
    write_demonstrations(folder / "demonstrations.jsonl", config)
    info = {
        "version": TINY_VERSION,
        "seed": config.seed,
        "parameters": count_parameters(model),
        "vocabulary": len(tokenizer),
        "corpus_stories": len(told),
        "corpus_tokens": sum(len(row.ids) for row in rows),
        **facts,
        "validation_loss": round(validation, 4),
        "sharpening": SHARPENING,
        "seconds": round(time.perf_counter() - started, 1),
        "config": asdict(config),
        "versions": _versions(),
    }
    write_json(folder / "info.json", info)
    return info


def _versions() -> dict[str, str]:
    import tokenizers
    import transformers

    from trainer import __version__

    return {
        "plackett": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
    }


# --- tokenizer and data -------------------------------------------------------------------------------


def make_tokenizer(told: list[stories.Story], vocabulary: int) -> Any:
    """Return a byte-level BPE tokenizer of the corpus: it reads whatever is typed, and has no unknown."""
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
    # Every word of the grammar is in the first few thousand stories many times over.
    texts = (text for each in told[:5_000] for text in (each.prompt, each.response))
    plain.train_from_iterator(texts, learner)
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=list(ROLE_TOKENS),
        chat_template=TEMPLATE,
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def as_messages(story: stories.Story) -> Messages:
    """Return the story as a conversation of two turns."""
    return [
        {"role": "user", "content": story.prompt},
        {"role": "assistant", "content": story.response},
    ]


def conversations(told: list[stories.Story], rng: random.Random) -> list[Messages]:
    """Return one conversation a story; one in 25 has a system message, one in 25 an earlier turn."""
    result = []
    for number, story in enumerate(told):
        messages = as_messages(story)
        if number % 25 == 0:
            messages = [{"role": "system", "content": rng.choice(SYSTEM_MESSAGES)}, *messages]
        elif number % 25 == 1:
            messages = [*as_messages(told[number - 1]), *messages]
        result.append(messages)
    return result


def encode(tokenizer: Any, dialogues: list[Messages]) -> list[Row]:
    """Return the rows that the chat template gives to these conversations, in a tenth of its time."""
    flat = [message["content"] for messages in dialogues for message in messages]
    contents = iter(tokenizer(flat, add_special_tokens=False)["input_ids"])
    role_ids = dict(zip(ROLES, tokenizer.convert_tokens_to_ids(list(ROLE_TOKENS)), strict=True))
    rows = []
    for messages in dialogues:
        ids, learned = [tokenizer.bos_token_id], [False]
        for message in messages:
            content = next(contents)
            assistant = message["role"] == "assistant"
            if assistant:
                content = [*content, tokenizer.eos_token_id]
            ids += [role_ids[message["role"]], *content]
            learned += [False, *[assistant] * len(content)]
        rows.append(Row(ids[:CONTEXT], learned[:CONTEXT]))
    return rows


def batches(rows: list[Row], size: int, rng: random.Random) -> Iterator[list[Row]]:
    """Yield batches for ever: each pass in a new order, rows of like length together (less padding)."""
    while True:
        order = list(range(len(rows)))
        rng.shuffle(order)
        # Sorting within 32 batches wastes hardly any padding, and keeps the order random at large.
        for start in range(0, len(order), size * 32):
            some = sorted(order[start : start + size * 32], key=lambda index: len(rows[index].ids))
            groups = [some[first : first + size] for first in range(0, len(some), size)]
            rng.shuffle(groups)
            yield from ([rows[index] for index in group] for group in groups)


# --- model --------------------------------------------------------------------------------------------


def make_model(config: TinyConfig, tokenizer: Any) -> Any:
    """Return a Llama-style network, untrained, whose attention starts near copying."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.width,
            intermediate_size=config.width * 2,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            initializer_range=0.05,  # 0.02 learns half as fast: its embeddings start too small
            **special,
        )
    )
    start_near_copying(model)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=MAX_NEW_TOKENS,
        **special,
    )
    return model


@torch.no_grad()
def start_near_copying(model: Any) -> None:
    """Start each attention head near "look at what is like me, and copy it".

    A story keeps its hero's name by copying it, which a network of random weights finds late: after the
    demo's minute it still drew names by chance. So the value and output matrices of a head start as a
    projection onto a random subspace and back, its query and key matrices as the same projection, both
    beside the usual noise; the branches' last matrices are scaled down, to let the embedding through.
    After Trockman and Kolter (2023), "Mimetic Initialization of Self-Attention Layers", with the sign
    and the sizes found here: validation loss 0.44 instead of 0.51 after 45 s, copied things 0.45 nats
    instead of 2.35.
    """
    config = model.config
    size = config.hidden_size // config.num_attention_heads
    for layer in model.model.layers:
        attention = layer.self_attn
        attention.o_proj.weight.mul_(0.1)
        layer.mlp.down_proj.weight.mul_(0.1)
        for head in range(config.num_attention_heads):
            part = slice(head * size, (head + 1) * size)
            copied = torch.linalg.qr(torch.randn(config.hidden_size, size))[0]  # (D, H)
            attention.v_proj.weight[part] += copied.T
            attention.o_proj.weight[:, part] += 0.2 * copied
            matched = torch.linalg.qr(torch.randn(config.hidden_size, size))[0]  # (D, H)
            attention.q_proj.weight[part] += 0.5 * matched.T
            attention.k_proj.weight[part] += 0.5 * matched.T


@torch.no_grad()
def sharpen(model: Any, factor: float) -> None:
    """Multiply all logits by `factor`: the same as sampling at temperature 1 / `factor` from then on."""
    model.model.norm.weight.mul_(factor)


def loss_of(model: Any, rows: list[Row]) -> Tensor:
    """Return the mean loss in nats over the learned tokens; logits are made for these alone.

    Padding is on the right, where causal attention never looks back from a real token: no mask.
    """
    pad = model.config.pad_token_id
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [pad] * (width - len(row.ids)) for row in rows])  # (B, L)
    learned = torch.tensor([row.learned + [False] * (width - len(row.ids)) for row in rows])
    places = learned[:, 1:].flatten().nonzero()[:, 0].to(model.device)
    ids = ids.to(model.device)
    states = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]  # (B, L-1, D)
    logits = model.lm_head(states.flatten(0, 1).index_select(0, places))  # (N, V)
    return F.cross_entropy(logits, ids[:, 1:].flatten().index_select(0, places))


@torch.no_grad()
def evaluate(model: Any, rows: list[Row], batch_size: int = 32) -> float:
    """Return the mean loss in nats over the learned tokens of all rows."""
    total, count = 0.0, 0
    for start in range(0, len(rows), batch_size):
        some = rows[start : start + batch_size]
        tokens = sum(sum(row.learned[1:]) for row in some)
        total += loss_of(model, some).item() * tokens
        count += tokens
    return total / max(count, 1)


# --- training -----------------------------------------------------------------------------------------


class Schedule:
    """The learning rate's share at each step: up, level, then linearly to 0 over the second half.

    With `steps` it is fixed. Without, `plan` chooses the number of steps half-way through the time; it
    also cuts the rest short (`cut`) when a machine that grew busier would end far too late.
    """

    def __init__(self, steps: int | None) -> None:
        self.total = steps
        self.cut = False
        self._fixed = steps is not None
        self._turn = steps // 2 if steps is not None else 0
        self._height = 1.0

    def share(self, step: int) -> float:
        """Return the share of the full learning rate at this step (from 1)."""
        warm = min(1.0, step / WARMUP_STEPS)
        if self.total is None or step <= self._turn:
            return warm
        return min(warm, self._height * (self.total - step + 1) / (self.total - self._turn))

    def plan(self, step: int, spent: float, budget: float) -> None:
        """Choose, after `step` steps in `spent` of `budget` seconds, how many there will be."""
        if self._fixed:
            return
        if self.total is None:
            if spent >= budget / 2:
                self.total, self._turn = 2 * step, step
            return
        fits = step + max(1, int((PATIENCE * budget - spent) / (spent / step)))
        if fits < self.total:
            # Go on from the rate of now, so that the way down has no jump.
            self._height = self.share(step)
            self.total, self._turn, self.cut = fits, step, True

    def progress(self, step: int, spent: float, budget: float) -> float:
        """Return how much is done, from 0 to 1."""
        return step / self.total if self.total is not None else min(1.0, spent / budget)


def train(model: Any, rows: list[Row], config: TinyConfig, *, deadline: float) -> dict[str, Any]:
    """Train until the steps, or the time until `deadline` (`time.perf_counter`), are used up."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=(0.9, 0.95), weight_decay=0.0
    )
    schedule = Schedule(config.steps)
    stream = batches(rows, config.batch_size, random.Random(config.seed))  # noqa: S311
    started = time.perf_counter()
    budget = max(0.0, deadline - started)
    step = tokens = 0
    loss = torch.zeros(())
    model.train()
    with Bar("story-teller") as bar:
        while schedule.total is None or step < schedule.total:
            step += 1
            batch = next(stream)
            for group in optimizer.param_groups:
                group["lr"] = config.lr * schedule.share(step)
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            tokens += sum(len(row.ids) for row in batch)
            spent = time.perf_counter() - started
            if step >= WARMUP_STEPS:
                schedule.plan(step, spent, budget)
            bar.show(schedule.progress(step, spent, budget))
    seconds = time.perf_counter() - started
    return {
        "steps": step,
        # Whether `--steps` with this number gives this very model (same threads, same versions).
        "repeatable_by_steps": not schedule.cut,
        "training_seconds": round(seconds, 1),
        "training_tokens": tokens,
        "tokens_per_second": round(tokens / seconds),
        "train_loss": round(loss.item(), 4),
    }


class Bar:
    """Progress on stderr: a bar on a terminal, a line at every tenth elsewhere."""

    def __init__(self, what: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self._what = what
        self._tenths = 0
        console = Console(stderr=True)
        self._bar: Any = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
            self._bar = Progress(*columns, Remaining(), console=console)
            self._task = self._bar.add_task(what, total=1.0)

    def __enter__(self) -> "Bar":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: float) -> None:
        """Show that this share, from 0 to 1, is done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
        elif int(done * 10) > self._tenths:
            self._tenths = int(done * 10)
            print(f"{self._what}: {self._tenths * 10} %", file=sys.stderr, flush=True)  # noqa: T201


# --- files --------------------------------------------------------------------------------------------


def write_prompts(path: Path, config: TinyConfig) -> None:
    """Write prompts for a queue, in the import format, whose requests are not in the corpus."""
    wanted = stories.generate(config.seed + 2, config.prompts * 3, held_out=True)
    once = list({each.prompt: each for each in wanted}.values())[: config.prompts]
    with path.open("w") as file:
        for number, each in enumerate(once, start=1):
            row = {"id": f"story-{number:04d}", "prompt": each.prompt, "metadata": each.attributes}
            file.write(json.dumps(row) + "\n")


def write_demonstrations(path: Path, config: TinyConfig) -> None:
    """Write prompts with the grammar's own stories, for supervised fine-tuning."""
    if not config.demonstrations:
        return
    with path.open("w") as file:
        for each in stories.generate(config.seed + 3, config.demonstrations, held_out=True):
            file.write(json.dumps({"messages": as_messages(each)}) + "\n")
