"""The demo's own policy: a small story-teller, trained from nothing in about a minute on two cores.

No model hub can be counted on, so the demo makes its model: a byte-level BPE tokenizer and a Llama-style
network of about a million parameters, both from the little stories of `demo.stories`. What is said about
a setting here and beside it was measured at equal time on two cores.

    python -m demo --out DIR --seconds 78
"""

import json
import math
import os
import platform
import random
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from demo import stories
from demo.network import evaluate, make_model, sharpen
from demo.settings import StoryTellerConfig
from demo.tokenizer import as_messages, conversations, encode, make_tokenizer
from demo.training import train
from trainer.engine.models import choose_device, count_parameters, make_repeatable
from trainer.errors import TrainerError, UsageError
from trainer.run.files import write_json

# Raised whenever the corpus, the tokenizer or the model changes: an older cached model is made anew.
MODEL_VERSION = 2

# Validation and saving, set aside from --seconds.
CLOSING_SECONDS = 2.0

# A network this young spreads a few per cent of its probability over nonsense. Its logits are sharpened
# once, after training, so that plain sampling at temperature 1 reads well.
SHARPENING = 1.15


def make_story_teller(config: StoryTellerConfig) -> dict[str, Any]:
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


def _make(config: StoryTellerConfig, folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    device = choose_device(config.device)
    torch.set_num_threads(config.threads)
    make_repeatable(config.seed)
    corpus = stories.generate(config.seed, config.corpus)
    tokenizer = make_tokenizer(corpus, config.vocabulary)
    model = make_model(config, tokenizer).to(device)
    rows = encode(tokenizer, conversations(corpus, random.Random(config.seed)))  # noqa: S311
    held_out = stories.generate(config.seed + 1, 128, held_out=True)
    deadline = started + config.seconds - CLOSING_SECONDS
    training = train(model, rows, config, deadline=deadline)
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
        "version": MODEL_VERSION,
        "seed": config.seed,
        "parameters": count_parameters(model),
        "vocabulary": len(tokenizer),
        "corpus_stories": len(corpus),
        "corpus_tokens": sum(len(row.ids) for row in rows),
        **training,
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


def write_prompts(path: Path, config: StoryTellerConfig) -> None:
    """Write prompts for a queue, in the import format, whose requests are not in the corpus."""
    wanted = stories.generate(config.seed + 2, config.prompts * 3, held_out=True)
    once = list({each.prompt: each for each in wanted}.values())[: config.prompts]
    with path.open("w") as file:
        for number, each in enumerate(once, start=1):
            row = {"id": f"story-{number:04d}", "prompt": each.prompt, "metadata": each.attributes}
            file.write(json.dumps(row) + "\n")


def write_demonstrations(path: Path, config: StoryTellerConfig) -> None:
    """Write prompts with the grammar's own stories, for supervised fine-tuning."""
    if not config.demonstrations:
        return
    with path.open("w") as file:
        for each in stories.generate(config.seed + 3, config.demonstrations, held_out=True):
            file.write(json.dumps({"messages": as_messages(each)}) + "\n")
