"""Conversations as a chat template takes them; and what it will not take.

A template may refuse a conversation: roles that do not alternate, a system's message, a tool. It may also
render it and leave a message out in silence, which would change what a model learns from: so what is not
simply said by a user or an assistant (a system's or a developer's message, a tool's answer, a call of a
tool, the list of tools) is looked for in what the template makes of a conversation of that form.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from trainer.data.examples import TOOLS, Messages
from trainer.data.values import JsonObject, JsonValue
from trainer.engine.protocols import Tokenizer
from trainer.errors import TrainerError, first_line

PLAIN = ("user", "assistant")
Form: TypeAlias = tuple[
    tuple[str, int, bool], ...
]  # role, calls of tools, whether it says something


class RefusedConversation(TrainerError):  # noqa: N818
    """The chat template does not take it; the reason is the template's."""

    def __init__(self, reason: str, said: str) -> None:
        super().__init__(f"the chat template refuses a conversation ({said[:60]!r}): {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Arrangement:
    """How calls of tools are written: templates differ."""

    arguments_as_text: bool = False
    nothing_said: str | None = ""


ARRANGEMENTS = (Arrangement(), Arrangement(arguments_as_text=True, nothing_said=None))


@dataclass
class Template:
    """A tokenizer's chat template, and which forms of conversation it takes."""

    tokenizer: Tokenizer
    arrangements: dict[Form, Arrangement | str] = field(default_factory=dict)  # or why it has none

    def render(
        self, messages: Messages, *, opens: bool = True, tokenize: bool = False, **options: object
    ) -> Any:
        """What `apply_chat_template` gives: the text, or tokens as `input_ids`; `opens` an answer or not.

        Raises RefusedConversation, with the template's reason.
        """
        form = form_of(messages)
        found: Arrangement | str = ARRANGEMENTS[0]
        if any(role not in PLAIN or calls for role, calls, _ in form):
            if form not in self.arrangements:
                self.arrangements[form] = self.find_arrangement(messages)
            found = self.arrangements[form]
        said = messages[-1]["content"] if messages else ""
        if isinstance(found, str):
            raise RefusedConversation(found, said)
        try:
            return self.apply(messages, found, opens=opens, tokenize=tokenize, **options)
        except Exception as error:  # a template is a program, and refuses by whatever it raises
            raise RefusedConversation(first_line(error), said) from None

    def apply(
        self,
        messages: Messages,
        how: Arrangement,
        *,
        opens: bool = True,
        tokenize: bool = False,
        **options: object,
    ) -> Any:
        """Ask the tokenizer."""
        turns, tools = arrange(messages, how)
        tokenizer: Any = self.tokenizer
        return tokenizer.apply_chat_template(
            turns,
            tools=tools or None,
            add_generation_prompt=opens,
            tokenize=tokenize,
            return_dict=tokenize,
            **options,
        )

    def find_arrangement(self, messages: Messages) -> Arrangement | str:
        """The first arrangement in which nothing of this form is lost; else why there is none."""
        marked, marks = mark(messages)
        reasons = []
        for how in ARRANGEMENTS:
            try:
                text: str = self.apply(marked, how)
            except Exception as error:
                reasons.append(first_line(error))
                continue
            lost = [what for word, what in marks.items() if word not in text]
            if not lost:
                return how
            reasons.append(f"it leaves out {lost[0]}")
        return reasons[0]


def form_of(messages: Messages) -> Form:
    """What a template can tell of a conversation but the words."""
    return tuple(
        (each["role"], len(calls_of(each)), bool(each["content"].strip())) for each in messages
    )


def calls_of(message: dict[str, str]) -> Sequence[JsonObject]:
    """The calls of tools in a message."""
    calls: Sequence[JsonObject] = json.loads(message.get("tool_calls", "[]"))
    return calls


def arrange(
    messages: Messages, how: Arrangement = ARRANGEMENTS[0]
) -> tuple[list[JsonObject], list[JsonObject]]:
    """(messages, tools) as templates take them."""
    turns: list[JsonObject] = []
    tools: list[JsonObject] = []
    for message in messages:
        if message["role"] == TOOLS:
            tools = json.loads(message["content"])
            continue
        turn: JsonObject = dict(message)
        if "tool_calls" in message:
            turn["tool_calls"] = [arrange_call(each, how) for each in calls_of(message)]
            turn["content"] = message["content"] or how.nothing_said
        turns.append(turn)
    return turns, tools


def arrange_call(call: JsonObject, how: Arrangement) -> JsonObject:
    """A call with its arguments as an object, which is what most templates write as JSON, or as text."""
    inner = call.get("function")
    if isinstance(inner, dict):
        return {**call, "function": arrange_call(inner, how)}
    arguments = call.get("arguments")
    if isinstance(arguments, str) and not how.arguments_as_text:
        return {**call, "arguments": parsed(arguments)}
    if not isinstance(arguments, str) and how.arguments_as_text:
        return {**call, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return call


def parsed(arguments: str) -> JsonValue:
    """The object that a text holds; the text, where it holds none."""
    try:
        value: JsonValue = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def mark(messages: Messages) -> tuple[Messages, dict[str, str]]:
    """The conversation with words in it that can be found again, and what each of them stands for."""
    marks: dict[str, str] = {}

    def word(what: str) -> str:
        name = f"marked{len(marks)}word"
        marks[name] = what
        return name

    marked = []
    for message in messages:
        turn = dict(message)
        role, calls = message["role"], calls_of(message)
        if role == TOOLS:
            listed = json.loads(message["content"])
            turn["content"] = json.dumps([renamed(each, word("the tools")) for each in listed])
        elif role not in PLAIN or calls:
            if message["content"].strip():
                turn["content"] = word(f"a message of the role {role!r}")
            if calls:
                named = [renamed(each, word("a call of a tool")) for each in calls]
                turn["tool_calls"] = json.dumps(named)
        marked.append(turn)
    return marked, marks


def renamed(value: JsonObject, name: str) -> JsonObject:
    """A tool, or a call of one, under another name."""
    inner = value.get("function")
    if isinstance(inner, dict):
        return {**value, "function": {**inner, "name": name}}
    return {**value, "name": name}
