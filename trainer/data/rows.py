"""The rows of the files as examples, each checked field by field."""

from collections.abc import Sequence
from typing import overload

from trainer.data.examples import Demonstration, Messages, Prompt, Ranking
from trainer.data.messages import (
    UnusableRow,
    WrongRow,
    check_prompt,
    conversation_of,
    is_said,
    is_transcript,
    prompt_of,
    split_transcripts,
    tools_of,
)
from trainer.data.values import JsonObject, JsonValue

# Ranks are compared and never counted, but tensors hold them.
LARGEST_RANK = 1_000_000


def rankings_of(row: JsonObject) -> list[Ranking]:
    if _has(row, "chosen") or _has(row, "rejected"):
        messages, chosen, rejected = _pair(row)
        policies = (_policy(row, "chosen_policy"), _policy(row, "rejected_policy"))
        weight = _number(row, "weight", 1.0)
        return [
            Ranking(
                messages,
                [chosen, rejected],
                [1, 2],
                weight,
                _label(row, "rater"),
                policies,
                strength=_number(row, "margin", None),
            )
        ]
    if _has(row, "rankings"):
        return _rankings_of_export(row)
    if _has(row, "ranks") and _has(row, "candidates"):  # the import format
        texts = [_candidate(each) for each in _list(row, "candidates")]
        ranks = _ranks(row["ranks"], len(texts))
        return [Ranking(prompt_of(row, "prompt"), texts, ranks, 1.0, _label(row, "rater"))]
    raise WrongRow("holds no ranking: chosen and rejected, or candidates and ranks, or rankings")


def _rankings_of_export(row: JsonObject) -> list[Ranking]:
    messages = prompt_of(row, "messages")
    names, texts, policies = [], [], []
    for each in _list(row, "candidates"):
        name, text = (each.get("id"), each.get("text")) if isinstance(each, dict) else (None, None)
        if not isinstance(each, dict) or not isinstance(name, str) or not isinstance(text, str):
            raise WrongRow("candidates: must be objects with id and text")
        names.append(name)
        texts.append(text)
        policies.append(_policy(each, "policy"))
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
                _label(ranking, "rater"),
                tuple(policies),
                strength=_number(ranking, "strength", None) if len(names) == 2 else None,
                axes=_axes(ranking.get("axes"), names),
            )
        )
    if not rankings:
        raise UnusableRow("no ranking")
    return rankings


def _has(row: JsonObject, name: str) -> bool:
    """Whether the row gives a field: a Parquet file has null in the columns that a row lacks."""
    return row.get(name) is not None


def _label(row: JsonObject, name: str) -> str:
    """An id or a name; empty where there is none."""
    value = row.get(name)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise WrongRow(f"{name}: must be text")
    return str(value)


def _policy(row: JsonObject, name: str) -> str | None:
    return _label(row, name) if _has(row, name) else None


def _axes(value: JsonValue, names: Sequence[str]) -> dict[str, tuple[float | None, ...]]:
    """Scores by candidate. A score of the best one alone orders nothing, and is left out."""
    given = value if isinstance(value, dict) else {}
    return {
        str(axis): tuple(_score(scores.get(name), str(axis)) for name in names)
        for axis, scores in given.items()
        if isinstance(scores, dict)
    }


def _score(value: JsonValue, axis: str) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not abs(value) < 1e9:
        raise WrongRow(f"axes.{axis}: must be numbers below a billion")
    return float(value)


def demonstrations_of(row: JsonObject) -> list[Demonstration]:
    if _has(row, "messages") and not _has(row, "rankings"):
        messages = conversation_of(row, "messages")
        if messages[-1]["role"] != "assistant":
            raise WrongRow("messages: must end with an assistant's message")
        if len(messages) - len(tools_of(row)) < 2:
            raise WrongRow("messages: has nothing that the assistant answers")
        if not any(map(is_said, messages)):
            raise UnusableRow("nothing but calls of tools")
        return [Demonstration(messages)]
    if _has(row, "chosen") or _has(row, "rejected"):
        prompt, chosen, _ = _pair(row)
        return [Demonstration([*prompt, {"role": "assistant", "content": chosen}])]
    raise WrongRow(
        "holds no demonstration: messages that end with an assistant's, or chosen and rejected"
    )


def prompts_of(row: JsonObject) -> list[Prompt]:
    name = _label(row, "prompt_id") or _label(row, "id")
    if _has(row, "rankings"):
        return [Prompt(prompt_of(row, "messages"), name)]
    if _has(row, "messages"):
        messages = conversation_of(row, "messages")
        if messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        return [Prompt(check_prompt(messages, "messages"), name)]
    if _has(row, "chosen") or _has(row, "rejected"):
        return [Prompt(_pair(row)[0], name)]
    if _has(row, "prompt"):
        return [Prompt(prompt_of(row, "prompt"), name)]
    raise WrongRow("holds no prompt: prompt, messages, or chosen and rejected")


def doubts_of(row: JsonObject) -> str | None:
    """What speaks against a row that is read as it stands."""
    chosen, rejected = (_finite(row.get(f"score_{name}")) for name in ("chosen", "rejected"))
    if chosen is None or rejected is None or chosen > rejected:
        return None
    return "score_chosen not above score_rejected, kept"


def _finite(value: JsonValue) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return None
    return float(value)


def _pair(row: JsonObject) -> tuple[Messages, str, str]:
    """(messages, chosen, rejected) of any form of a comparison.

    Beside a prompt stand the responses, or whole conversations that begin with it; without one, whole
    conversations or transcripts.
    """
    chosen, rejected = (_given(row, name) for name in ("chosen", "rejected"))
    has_prompt = row.get("prompt") is not None
    if isinstance(chosen, str) and isinstance(rejected, str):
        if not has_prompt:
            messages, *texts = split_transcripts(chosen, rejected)
            return [*tools_of(row), *messages], texts[0], texts[1]
        said = [_after_transcript(row["prompt"], text) for text in (chosen, rejected)]
        return prompt_of(row, "prompt"), said[0], said[1]
    if isinstance(chosen, list) and isinstance(rejected, list):
        one, other = (conversation_of(row, name) for name in ("chosen", "rejected"))
        for name, messages in (("chosen", one), ("rejected", other)):
            if messages[-1]["role"] != "assistant":
                raise WrongRow(f"{name}: must end with an assistant's message")
            if "tool_calls" in messages[-1]:
                raise UnusableRow("a response that calls a tool")
        if one[:-1] != other[:-1]:
            raise WrongRow("rejected: must differ from chosen in the last message alone")
        prompt = _prompt_with(row, one[:-1]) if has_prompt else one[:-1]
        name = "prompt" if has_prompt else "chosen"
        return check_prompt(prompt, name), one[-1]["content"], other[-1]["content"]
    raise WrongRow("chosen and rejected: must both be strings, or both lists of messages")


def _prompt_with(row: JsonObject, said: Messages) -> Messages:
    """The prompt of a row whose conversations, but for their last messages, are `said`.

    They repeat the prompt, all of it or its end, or go on from it. Where the prompt is a text, it is what
    one of the users in them says.
    """
    prompt = conversation_of(row, "prompt")
    tools = len(tools_of(row))
    given, turns = prompt[tools:], said[tools:]
    if not turns:
        return prompt
    if turns[0]["role"] == "assistant":
        return [*prompt, *turns]
    if given[-len(turns) :] == turns:
        return prompt
    repeats = turns[-len(given) :] == given
    asks = isinstance(row["prompt"], str) and any(_alike(each, given[0]) for each in turns)
    if repeats or asks:
        return said
    raise WrongRow("chosen: begins with another prompt than the row's")


def _alike(one: dict[str, str], other: dict[str, str]) -> bool:
    return one["role"] == other["role"] and one["content"].strip() == other["content"].strip()


def _after_transcript(prompt: JsonValue, text: str) -> str:
    """A response to a transcript, which may begin with all of it."""
    if isinstance(prompt, str) and is_transcript(prompt):
        return text.removeprefix(prompt).strip()
    return text


def _given(row: JsonObject, name: str) -> JsonValue:
    value = row.get(name)
    if value is None:
        raise WrongRow(f"{name}: is missing")
    return value


def _list(row: JsonObject, name: str) -> list[JsonValue]:
    value = row.get(name)
    if not isinstance(value, list):
        raise WrongRow(f"{name}: must be a list")
    return value


def _candidate(value: JsonValue) -> str:
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise WrongRow("candidates: must be strings, or objects with a text")
    return text


def _ranks(values: JsonValue, count: int) -> list[int]:
    given = values if isinstance(values, list) else []
    ranks = [each for each in given if isinstance(each, int) and not isinstance(each, bool)]
    whole = isinstance(values, list) and len(ranks) == len(given) == count
    if not whole or not all(1 <= rank <= LARGEST_RANK for rank in ranks):
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
