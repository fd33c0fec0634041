"""The trainer's side of what both sides compute: splits of prompts, parting of transcripts."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests import vectors
from trainer.data.examples import split_of
from trainer.data.files import read_rankings
from trainer.errors import TrainerError

SPLITS = vectors.read("splits")
PAIRS = vectors.read("transcripts")["pairs"]


def test_prompts_are_split_as_the_vectors_say() -> None:
    for prompt in SPLITS["prompts"]:
        assert split_of(prompt["messages"]) == prompt["of_a_single_file"]


def test_a_single_files_split_is_the_prompts_hash_as_a_fraction() -> None:
    """What holds the two sides together: the hash that exports are split by decides here too."""
    for prompt in SPLITS["prompts"]:
        place = int(prompt["sha256"][:16], 16) / 2**64
        wanted = "train" if place < 0.8 else "validation" if place < 0.9 else "test"
        assert prompt["of_a_single_file"] == wanted
    text = json.dumps(SPLITS["prompts"][0]["messages"], sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == SPLITS["prompts"][0]["sha256"]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair["name"])
def test_transcripts_part_as_the_vectors_say(pair: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "hh.train.jsonl"
    file.write_text(json.dumps({"chosen": pair["chosen"], "rejected": pair["rejected"]}) + "\n")
    wanted = pair["parted"]
    if wanted is None:
        with pytest.raises(TrainerError):
            read_rankings(file)
        return
    (ranking,) = read_rankings(file)["train"]
    assert ranking.messages == [
        {"role": each["role"], "content": each["content"].strip()} for each in wanted["messages"]
    ]
    assert ranking.candidates == [wanted["chosen"].strip(), wanted["rejected"].strip()]
    assert ranking.ranks == [1, 2]
