"""Conversations as rows hold them, as messages of a role and a text.

A message has `role` and `content`, and where they were given `name`, `tool_call_id` and `tool_calls` (as
JSON). The tools that a conversation may call stand before it, as the content of a message of the role
`tools`. So all of a conversation is text, whatever it is about; `trainer/engine/conversations.py` makes of
it what chat templates take.
"""

import json
import re
from collections.abc import Sequence

from trainer.data.examples import TOOLS, Messages
from trainer.data.values import JsonObject, JsonValue

ROLES = ("system", "developer", "user", "assistant", "tool")
# Whose message a response can answer.
ASKING = ("user", "tool")
MARKER = re.compile(r"\n\n(Human|Assistant):")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}


class WrongRow(Exception):  # noqa: N818
    """A row that is not what it should be; the reader adds file and line, and nothing is read."""


class UnusableRow(Exception):  # noqa: N818
    """A row that is in order, and holds what no training can use: it is left out and counted."""


def conversation_of(row: JsonObject, name: str) -> Messages:
    """The messages of a field, after the row's tools: a list of them, a transcript, or a user's text."""
    value = row.get(name)
    if isinstance(value, str):
        messages = split_transcript(value) or [{"role": "user", "content": value}]
    elif isinstance(value, list) and value:
        messages = [message_of(each, f"{name}.{number}") for number, each in enumerate(value)]
    else:
        raise WrongRow(f"{name}: must be a string or a list of messages")
    return [*tools_of(row), *messages]


def prompt_of(row: JsonObject, name: str) -> Messages:
    """A conversation that waits for a response."""
    return check_prompt(conversation_of(row, name), name)


def check_prompt(messages: Messages, name: str) -> Messages:
    """Raise WrongRow where nobody is to be answered."""
    if not messages or messages[-1]["role"] not in ASKING:
        raise WrongRow(f"{name}: must end with a user's message")
    return messages


def message_of(value: JsonValue, where: str) -> dict[str, str]:
    """One message."""
    if not isinstance(value, dict):
        raise WrongRow(f"{where}: must have a role and a content")
    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise WrongRow(f"{where}: must have a role ({', '.join(ROLES)}) and a content")
    message = {"role": role, "content": ""}
    calls = json_list(value.get("tool_calls"), f"{where}.tool_calls")
    if calls:
        if role != "assistant":
            raise WrongRow(f"{where}.tool_calls: only an assistant calls tools")
        for number, call in enumerate(calls):
            check_named(call, f"{where}.tool_calls.{number}")
        message["tool_calls"] = json.dumps(calls, ensure_ascii=False)
    for name in ("name", "tool_call_id"):
        given = value.get(name)
        if given is not None and not isinstance(given, str):
            raise WrongRow(f"{where}.{name}: must be text")
        if given:
            message[name] = given
    content = value.get("content")
    if content is not None:
        message["content"] = text_of(content, f"{where}.content")
    elif not calls:
        raise UnusableRow("a message without content")
    return message


def is_said(message: dict[str, str]) -> bool:
    """Whether an assistant says this in words, which can be learnt; a call of tools is read alone."""
    return message["role"] == "assistant" and "tool_calls" not in message


def text_of(content: JsonValue, where: str) -> str:
    """A content's text: a string, or parts that are all text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise WrongRow(f"{where}: must be text")
    texts = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict) or not isinstance(kind, str):
            raise WrongRow(f"{where}.{number}: must be a part with a type")
        text = part.get("text")
        if kind != "text":
            raise WrongRow(f"{where}.{number}: holds a part of type {kind!r}; text alone is read")
        if not isinstance(text, str):
            raise WrongRow(f"{where}.{number}: has no text")
        texts.append(text)
    return "".join(texts)


def tools_of(row: JsonObject) -> Messages:
    """The row's tools as a message; none where there are none."""
    tools = json_list(row.get("tools"), "tools")
    for number, tool in enumerate(tools):
        check_named(tool, f"tools.{number}")
    return [{"role": TOOLS, "content": json.dumps(tools, ensure_ascii=False)}] if tools else []


def json_list(value: JsonValue, where: str) -> Sequence[JsonValue]:
    """A list, or the JSON text of one; empty for nothing."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise WrongRow(f"{where}: must be a list, or the JSON of one") from None
    if value is None or value == "":
        return []
    if not isinstance(value, list):
        raise WrongRow(f"{where}: must be a list, or the JSON of one")
    return value


def check_named(value: JsonValue, where: str) -> None:
    """Raise WrongRow for a tool, or a call of one, without a name."""
    inner = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise WrongRow(f"{where}: must be an object with the function's name")


def is_transcript(text: str) -> bool:
    r"""Whether a text is a conversation as HH writes it: `\n\nHuman: … \n\nAssistant: …`."""
    return text.startswith("\n\nHuman:")


def split_transcript(text: str) -> Messages:
    """A transcript's turns, but an assistant's that is still to be said; none of a plain text."""
    if not is_transcript(text):
        return []
    parts = MARKER.split(text)
    turns = [
        {"role": SPEAKERS[parts[i]], "content": parts[i + 1].strip()}
        for i in range(1, len(parts), 2)
    ]
    return turns[:-1] if turns[-1] == {"role": "assistant", "content": ""} else turns


def split_transcripts(chosen: str, rejected: str) -> tuple[Messages, str, str]:
    r"""Two transcripts (`\n\nHuman: … \n\nAssistant: …`) as a prompt and two responses.

    The prompt is what they share up to the last human turn before they part; a response is all that
    follows, which for the few pairs that part early holds the later turns as they stand.
    """
    turns = []
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        parts = MARKER.split(text)
        if parts[0] != "" or len(parts) < 3 or parts[1] != "Human":
            raise WrongRow(
                f"{name}: without a prompt it must be a list of messages, or a transcript, which "
                "starts with a blank line and 'Human:'"
            )
        turns.append([(parts[i], parts[i + 1]) for i in range(1, len(parts), 2)])
    one, other = turns
    common = 0
    while common < min(len(one), len(other)) and one[common] == other[common]:
        common += 1
    while common and not (
        one[common - 1][0] == "Human"
        and len(one) > common
        and len(other) > common
        and one[common][0] == other[common][0] == "Assistant"
    ):
        common -= 1
    if common == 0:
        raise WrongRow("rejected: shares no prompt with chosen")
    messages = [{"role": SPEAKERS[who], "content": said.strip()} for who, said in one[:common]]
    rests = []
    for each in turns:
        first, *others = each[common:]
        rest = first[1] + "".join(f"\n\n{who}:{said}" for who, said in others)
        rests.append(rest.strip())
    return messages, rests[0], rests[1]
