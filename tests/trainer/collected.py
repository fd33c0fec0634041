"""What a few raters might have handed in, as an export.

Rankings of two to four with ties, weights, strengths, policies and axes, by several raters of one prompt;
and conversations of one or two turns.
"""

import json
import random
from pathlib import Path
from typing import Any

NOUNS = ("the cat", "a dog", "the fox", "the sun", "the moon", "a tree")
VERBS = ("sat", "ran", "sang", "sat on the hill", "ran under the tree", "sang in the sun")
# By prompt and rater: the ranks of the candidates, in the order in which they stand.
RANKS = {
    "train": ([[1, 2, 3, 4]], [[2, 1], [1, 2]], [[3, 1, 1, 2]], [[2, 1]], [[1, 2, 2]],
              [[2, 3, 1], [1, 3, 2]], [[1, 1]]),
    "validation": ([[2, 1, 3]], [[1, 2], [1, 2], [2, 1]]),
    "test": ([[4, 1, 2, 2]], [[2, 1], [2, 1]], [[1, 2, 3]]),
}  # fmt: skip
WEIGHTS = (1.0, 0.25, 2.0, 0.5)
POLICIES = ("old", "new", None)


def tell(source: random.Random) -> str:
    """A sentence or two, of many lengths."""
    sentences = [
        f"{source.choice(NOUNS)} {source.choice(VERBS)} {source.choice('.!')}"
        for _ in range(source.choice((1, 1, 2, 3)))
    ]
    return " ".join(sentences)


def ask(source: random.Random) -> str:
    """A prompt, of a length that differs from another's."""
    polite = source.choice(("", "please ", "yes please "))
    return f"{polite}tell me story {source.choice(NOUNS)} {source.choice(VERBS)}"


def write_export(folder: Path, *, seed: int = 0) -> str:
    """Write it; its folder."""
    source = random.Random(seed)
    folder.mkdir(parents=True)
    number = 0
    for split, prompts in RANKS.items():
        lines, conversations = [], []
        for given in prompts:
            count = len(given[0])
            names = [f"c{index}" for index in range(count)]
            texts = [tell(source) for _ in names]
            rankings = []
            for rater, ranks in enumerate(given):
                number += 1
                ranking: dict[str, Any] = {
                    "rater": f"rater{rater}",
                    "ranks": dict(reversed([*zip(names, ranks, strict=True)])),  # in no order
                    "weight": WEIGHTS[number % len(WEIGHTS)],
                    "axes": {
                        "clear": {
                            name: (index * 7 + number) % 4 for index, name in enumerate(names)
                        }
                    },
                }
                if count == 2:
                    ranking["strength"] = 1 + number % 3
                rankings.append(ranking)
            messages = [{"role": "user", "content": ask(source)}]
            candidates = [
                {"id": name, "text": text, "policy": POLICIES[(index + number) % len(POLICIES)]}
                for index, (name, text) in enumerate(zip(names, texts, strict=True))
            ]
            row = {"messages": messages, "candidates": candidates, "rankings": rankings}
            lines.append(json.dumps(row))
            turns = [*messages, {"role": "assistant", "content": texts[0]}]
            if number % 2:
                turns += [{"role": "user", "content": ask(source)},
                          {"role": "assistant", "content": texts[-1]}]  # fmt: skip
            conversations.append(json.dumps({"messages": turns}))
        (folder / f"rankings.{split}.jsonl").write_text("\n".join(lines) + "\n")
        (folder / f"demonstrations.{split}.jsonl").write_text("\n".join(conversations) + "\n")
    return str(folder)
