"""The rows of the files as examples, each checked field by field."""

import re
from collections.abc import Sequence
from typing import overload

from trainer.data.examples import Demonstration, Messages, Prompt, Ranking
from trainer.data.values import JsonObject, JsonValue

ROLES = ("system", "user", "assistant")
MARKER = re.compile(r"\n\n(Human|Assistant):")


class WrongRow(Exception):  # noqa: N818
    """A row that cannot be used; the reader adds file and line."""


def rankings_of(row: JsonObject) -> list[Ranking]:
    if "chosen" in row:
        messages, chosen, rejected = _pair(row)
        policies = (_name(row.get("chosen_policy")), _name(row.get("rejected_policy")))
        weight = _number(row, "weight", 1.0)
        return [
            Ranking(
                messages,
                [chosen, rejected],
                [1, 2],
                weight,
                str(row.get("rater", "")),
                policies,
                strength=_number(row, "margin", None),
            )
        ]
    if "rankings" in row:
        return _rankings_of_export(row)
    if "ranks" in row and "candidates" in row:  # the import format
        texts = [_candidate(each) for each in _list(row, "candidates")]
        ranks = _ranks(row["ranks"], len(texts))
        return [Ranking(_prompt(row, "prompt"), texts, ranks, 1.0, str(row.get("rater", "")))]
    raise WrongRow("chosen: is missing, and so is rankings")


def _rankings_of_export(row: JsonObject) -> list[Ranking]:
    messages = _prompt(row, "messages")
    names, texts, policies = [], [], []
    for each in _list(row, "candidates"):
        name, text = (each.get("id"), each.get("text")) if isinstance(each, dict) else (None, None)
        if not isinstance(each, dict) or not isinstance(name, str) or not isinstance(text, str):
            raise WrongRow("candidates: must be objects with id and text")
        names.append(name)
        texts.append(text)
        policies.append(_name(each.get("policy")))
    if len(set(names)) < len(names):
        raise WrongRow("candidates: two have the same id")
    rankings = []
    for number, ranking in enumerate(_list(row, "rankings")):
        given = ranking.get("ranks") if isinstance(ranking, dict) else None
        if not isinstance(ranking, dict) or not isinstance(given, dict) or set(given) != set(names):
            raise WrongRow(f"rankings.{number}.ranks: must give every candidate a rank")
        ranks = _ranks([given[name] for name in names], len(names))
        weight = _number(ranking, "weight", 1.0)
        rankings.append(
            Ranking(
                messages,
                texts,
                ranks,
                weight,
                str(ranking.get("rater", "")),
                tuple(policies),
                strength=_number(ranking, "strength", None) if len(names) == 2 else None,
                axes=_axes(ranking.get("axes"), names),
            )
        )
    return rankings


def _name(value: JsonValue) -> str | None:
    return None if value is None else str(value)


def _axes(value: JsonValue, names: Sequence[str]) -> dict[str, tuple[float | None, ...]]:
    """Scores by candidate. A score of the best one alone orders nothing, and is left out."""
    given = value if isinstance(value, dict) else {}
    return {
        str(axis): tuple(_score(scores.get(name)) for name in names)
        for axis, scores in given.items()
        if isinstance(scores, dict)
    }


def _score(value: JsonValue) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def demonstrations_of(row: JsonObject) -> list[Demonstration]:
    if "messages" in row and "rankings" not in row:
        messages = _messages(row, "messages")
        if messages[-1]["role"] != "assistant":
            raise WrongRow("messages: must end with an assistant's message")
        return [Demonstration(messages)]
    if "chosen" in row:
        prompt, chosen, _ = _pair(row)
        return [Demonstration([*prompt, {"role": "assistant", "content": chosen}])]
    raise WrongRow("messages: is missing")


def prompts_of(row: JsonObject) -> list[Prompt]:
    name = str(row.get("prompt_id") or row.get("id") or "")
    if "rankings" in row:
        return [Prompt(_prompt(row, "messages"), name)]
    if "messages" in row:
        messages = _messages(row, "messages")
        if messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        return [Prompt(_checked_prompt(messages, "messages"), name)]
    if "chosen" in row:
        return [Prompt(_pair(row)[0], name)]
    if "prompt" in row:
        return [Prompt(_prompt(row, "prompt"), name)]
    raise WrongRow("prompt: is missing")


def _pair(row: JsonObject) -> tuple[Messages, str, str]:
    """(messages, chosen, rejected) of any of the three forms of a comparison."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if row.get("prompt") is not None:
        return (
            _prompt(row, "prompt"),
            _response("chosen", chosen),
            _response("rejected", rejected),
        )
    if isinstance(chosen, str) and isinstance(rejected, str):
        return split_transcripts(chosen, rejected)
    if isinstance(chosen, list) and isinstance(rejected, list):
        one, other = (_messages(row, name) for name in ("chosen", "rejected"))
        if one[:-1] != other[:-1] or not one[:-1]:
            raise WrongRow("rejected: must differ from chosen in the last message alone")
        _checked_prompt(one[:-1], "chosen")
        return one[:-1], one[-1]["content"], other[-1]["content"]
    raise WrongRow("chosen and rejected: must both be strings, or both lists of messages")


def split_transcripts(chosen: str, rejected: str) -> tuple[Messages, str, str]:
    r"""Two transcripts (`\n\nHuman: … \n\nAssistant: …`) as a prompt and two responses.

    The prompt is what they share up to the last human turn before they part; a response is all that
    follows, which for the few pairs that part early holds the later turns as they stand.
    """
    turns = []
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        parts = MARKER.split(text)
        if parts[0] != "" or len(parts) < 3 or parts[1] != "Human":
            raise WrongRow(f"{name}: a transcript starts with a blank line and 'Human:'")
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
    roles = {"Human": "user", "Assistant": "assistant"}
    messages = [{"role": roles[who], "content": said.strip()} for who, said in one[:common]]
    rests = []
    for each in turns:
        first, *others = each[common:]
        rest = first[1] + "".join(f"\n\n{who}:{said}" for who, said in others)
        rests.append(rest.strip())
    return messages, rests[0], rests[1]


def _messages(row: JsonObject, name: str) -> Messages:
    value = row.get(name)
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise WrongRow(f"{name}: must be a string or a list of messages")
    messages: Messages = []
    for number, message in enumerate(value):
        given = message if isinstance(message, dict) else {}
        role, content = given.get("role"), given.get("content")
        if not isinstance(role, str) or not isinstance(content, str) or role not in ROLES:
            raise WrongRow(f"{name}.{number}: must have a role and a content")
        messages.append({"role": role, "content": content})
    return messages


def _prompt(row: JsonObject, name: str) -> Messages:
    return _checked_prompt(_messages(row, name), name)


def _checked_prompt(messages: Messages, name: str) -> Messages:
    if not messages or messages[-1]["role"] != "user":
        raise WrongRow(f"{name}: must end with a user's message")
    return messages


def _list(row: JsonObject, name: str) -> list[JsonValue]:
    value = row.get(name)
    if not isinstance(value, list):
        raise WrongRow(f"{name}: must be a list")
    return value


def _response(name: str, value: JsonValue) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        content = value[0].get("content")
        if isinstance(content, str):
            return content
    raise WrongRow(f"{name}: must be a string, or a list of one assistant's message")


def _candidate(value: JsonValue) -> str:
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise WrongRow("candidates: must be strings, or objects with a text")
    return text


def _ranks(values: JsonValue, count: int) -> list[int]:
    given = values if isinstance(values, list) else []
    ranks = [each for each in given if isinstance(each, int) and not isinstance(each, bool)]
    whole = isinstance(values, list) and len(ranks) == len(given) == count
    if not whole or (count and min(ranks) < 1):
        raise WrongRow("ranks: must be whole numbers from 1, one for each candidate")
    return ranks


@overload
def _number(row: JsonObject, name: str, default: float) -> float: ...


@overload
def _number(row: JsonObject, name: str, default: None) -> float | None: ...


def _number(row: JsonObject, name: str, default: float | None) -> float | None:
    value = row.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise WrongRow(f"{name}: must be a number, 0 or more")
    return float(value)
