r"""Anthropic's transcripts: `\n\nHuman: … \n\nAssistant: …`, kept to the byte.

A transcript is split at its markers and nowhere else: what stands between them, spaces and all, is the
turn's content, so that rendering the turns gives the same bytes again.

A pair `{chosen, rejected}` becomes a prompt and two candidates. The prompt is what both have in common up
to and with the last user turn before they part; each candidate is all that follows its next `Assistant:`
marker. In nearly all pairs that is one answer. In the few that part earlier, the candidate is the rest of
its transcript, markers and all, which renders back to the same bytes too.
"""

import re
from collections.abc import Mapping, Sequence

from app.errors import InvalidInput

MARKER = re.compile(r"\n\n(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}
NAMES = {"user": "Human", "assistant": "Assistant"}
# Almost every turn starts with one space after its colon; it belongs to the format.
SPACE = " "


def parse_transcript(text: str) -> list[tuple[str, str]]:
    """(role, content) of each turn; the content is everything after the marker's colon.

    Raises InvalidInput where the text does not start with a human's turn.
    """
    parts = MARKER.split(text)
    if parts[0] != "" or len(parts) < 3 or parts[1] != "Human":
        raise InvalidInput("a transcript starts with a blank line and 'Human:'")
    return [(ROLES[parts[i]], parts[i + 1]) for i in range(1, len(parts), 2)]


def split_pair(chosen: str, rejected: str) -> tuple[list[dict[str, str]], str, str, bool]:
    """(messages, chosen text, rejected text, whether they part before the last turn) of a pair.

    Raises InvalidInput where the two share no human turn that an assistant's turn follows.
    """
    one, other = parse_transcript(chosen), parse_transcript(rejected)
    common = 0
    while common < min(len(one), len(other)) and one[common] == other[common]:
        common += 1
    # Back to the last common user turn that both go on from with an assistant's.
    while common and not (
        one[common - 1][0] == "user"
        and len(one) > common
        and len(other) > common
        and one[common][0] == other[common][0] == "assistant"
    ):
        common -= 1
    if common == 0:
        raise InvalidInput("the two transcripts share no prompt")
    messages = [{"role": role, "content": _bare(content)} for role, content in one[:common]]
    texts = [_rest(turns[common:]) for turns in (one, other)]
    if any(not content.startswith(SPACE) for _, content in one[:common]) or any(
        not turns[common][1].startswith(SPACE) for turns in (one, other)
    ):
        raise InvalidInput("a marker is not followed by a space")
    early = max(len(one), len(other)) > common + 1
    return messages, texts[0], texts[1], early


def render_transcript(messages: Sequence[Mapping[str, str]], response: str) -> str:
    """The transcript of a conversation and the response to it; the inverse of `split_pair`.

    The format knows no system turn: a system message stands in front of the first human turn's text,
    with a blank line between.
    """
    parts = []
    system = ""
    for message in messages:
        if message["role"] == "system":
            system += f"{message['content']}\n\n"
            continue
        parts.append(f"\n\n{NAMES[message['role']]}:{SPACE}{system}{message['content']}")
        system = ""
    return f"{''.join(parts)}\n\nAssistant:{SPACE}{response}"


def _bare(content: str) -> str:
    return content.removeprefix(SPACE)


def _rest(turns: Sequence[tuple[str, str]]) -> str:
    first, *others = turns
    return _bare(first[1]) + "".join(f"\n\n{NAMES[role]}:{text}" for role, text in others)
