"""How much a reward model learns of real pairs: from scratch, after SFT, and beside a bag of words.

    python bench/hh_pairs.py pairs.jsonl.gz

All see the training split of the file (by the trainer's stated rule) and are measured on the test split;
the validation split is what SFT's patience looks at, and judges nothing. The bag of words is a logistic
regression on differences of word counts; the reward model is a small untrained Llama-style network with a
byte-level BPE of the same text, fitted as it is or after supervised fine-tuning on the preferred responses.
Prints one JSON object.
"""

import argparse
import contextlib
import io
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from demo.tokenizer import TEMPLATE
from trainer import reward, sft
from trainer.data.examples import Data, Ranking
from trainer.data.files import read_rankings
from trainer.formulas.evaluation import PairFigures, figures_of
from trainer.settings.reward import RewardConfig
from trainer.settings.sft import SFTConfig

WORD = re.compile(r"[a-z']+")


def bag_of_words(data: Data[Ranking], *, features: int = 4000, seed: int = 0) -> PairFigures:
    """Logistic regression on log(1 + count) differences of the commonest words, with ridge."""
    counts: Counter[str] = Counter()
    for each in data["train"]:
        for text in each.candidates:
            counts.update(set(WORD.findall(text.lower())))
    index = {word: n for n, (word, _) in enumerate(counts.most_common(features))}

    def differences(rankings: list[Ranking]) -> torch.Tensor:
        rows = torch.zeros(len(rankings), len(index))
        for number, each in enumerate(rankings):
            for text, sign in zip(each.candidates, (1, -1), strict=True):
                for word, count in Counter(WORD.findall(text.lower())).items():
                    if word in index:
                        rows[number, index[word]] += sign * torch.tensor(1.0 + count).log()
        return rows

    torch.manual_seed(seed)
    train, held_out = differences(data["train"]), differences(data["test"])
    weights = torch.zeros(len(index), requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (
            -torch.nn.functional.logsigmoid(train @ weights).mean() + 0.01 * weights.square().sum()
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        return figures_of((held_out @ weights).double())


def make_model(data: Data[Ranking], folder: Path, seed: int, *, width: int = 96) -> None:
    """A small untrained policy and its tokenizer, as a checkpoint to start from."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    texts = [text for each in data["train"] for text in each.candidates]
    plain.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=2000,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token=special[0],
        bos_token=special[1],
        eos_token=special[2],
        chat_template=TEMPLATE,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=width * 8 // 3,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def fine_tune(file: str, folder: Path, seed: int, epochs: float) -> dict[str, Any]:
    """SFT of the small model on the preferred responses; its result."""
    config = SFTConfig(
        data=file,
        model=f"{folder}/model",
        out=f"{folder}/sft",
        seed=seed,
        epochs=epochs,
        batch_size=16,
        max_length=512,
        lr=2e-3,
        packing=True,
        patience=2,
    )
    return sft.main(config)


def fit(file: str, model: str, out: str, seed: int, epochs: float) -> dict[str, Any]:
    """The held-out accuracy of a reward model that starts from this model."""
    config = RewardConfig(
        data=file,
        model=model,
        out=out,
        seed=seed,
        epochs=epochs,
        batch_size=16,
        max_length=256,
        lr=5e-4,
    )
    started = time.perf_counter()
    result = reward.main(config)
    return {
        "seed": seed,
        "accuracy": result["test"]["accuracy"],
        "accuracy_interval": result["test"]["accuracy_interval"],
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", help="HH pairs, JSONL, gzipped or not")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--sft-epochs", type=float, default=6.0)
    arguments = parser.parse_args()
    data = read_rankings(arguments.file)
    found: dict[str, Any] = {
        "train_pairs": len(data["train"]),
        "validation_pairs": len(data["validation"]),  # for patience alone
        "test_pairs": len(data["test"]),
        "bag_of_words": bag_of_words(data),
        "from_scratch": [],
        "after_sft": [],
    }
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
            folder = Path(name)
            make_model(data, folder / "model", seed)
            tuned = fine_tune(arguments.file, folder, seed, arguments.sft_epochs)
            for start, model in (("from_scratch", "model"), ("after_sft", "sft/model")):
                figures = fit(
                    arguments.file, f"{name}/{model}", f"{name}/{start}", seed, arguments.epochs
                )
                if start == "after_sft":
                    figures["sft_validation_loss"] = tuned["validation_loss"]
                found[start].append(figures)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
