"""The application's side of what both sides compute: splits of prompts, parting of transcripts."""

from typing import Any

import pytest

from app.datasets.rows import assign_split
from app.datasets.schemas import Split
from app.errors import InvalidInput
from app.prompts.parse import hash_messages
from app.prompts.transcripts import split_pair
from tests import vectors

SPLITS = vectors.read("splits")
PAIRS = vectors.read("transcripts")["pairs"]


def test_prompts_are_hashed_and_split_as_the_vectors_say() -> None:
    shares = [Split(**each) for each in SPLITS["shares"]]
    for prompt in SPLITS["prompts"]:
        digest = hash_messages(prompt["messages"])
        assert digest.hex() == prompt["sha256"]
        assert [assign_split(digest, each) for each in shares] == prompt["of_an_export"]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair["name"])
def test_transcripts_part_as_the_vectors_say(pair: dict[str, Any]) -> None:
    wanted = pair["parted"]
    if wanted is None:
        with pytest.raises(InvalidInput):
            split_pair(pair["chosen"], pair["rejected"])
        return
    messages, chosen, rejected, early = split_pair(pair["chosen"], pair["rejected"])
    found = {"messages": messages, "chosen": chosen, "rejected": rejected, "early": early}
    assert found == wanted
