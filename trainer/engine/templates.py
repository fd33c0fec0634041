"""Chat templates: where they end a turn, and how they are fitted to what training reads.

A reward is read at the last token, and many templates write something behind the end of a turn: a
newline, or another end. Plain programs, which render a whole conversation and take its last token, would
read the reward there. So a template is wrapped as it is loaded, and saved so: a conversation that ends
with an assistant's turn ends with the token that ends the turn; and where the tokenizer puts a BOS before
every text, the template does too. All else stays as it was, which is tried: where it is not so, nothing is
wrapped.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.engine.protocols import Tokenizer

# For tokenizers that bring no chat template. A stated format beats a guessed one. An answer starts on a
# line of its own: a space before it would be part of its first token. Nothing stands behind the last end.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}"
    "{{ message['role'] }}:\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\nassistant:\n' }}{% endif %}"
)

Turns = Sequence[Mapping[str, object]]

ASKED = {"role": "user", "content": "question"}
SAID, SAID_ELSE = "answer", "Yes, 42."
SYSTEM = {"role": "system", "content": "advice"}
TOOL = {"name": "find", "description": "Finds.", "parameters": {"type": "object", "properties": {}}}
CALL: dict[str, object] = {
    "role": "assistant",
    "tool_calls": [{"type": "function", "function": {"name": "find", "arguments": {"what": [1]}}}],
}
FOUND = {"role": "tool", "name": "find", "content": "found"}

# Marks of where transformers' `generation` blocks start and end, while a text is held back.
START, STOP = "\U000f1000", "\U000f1001"
GENERATION = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")


def answered(text: str) -> dict[str, object]:
    """An assistant's turn."""
    return {"role": "assistant", "content": text}


@dataclass(frozen=True)
class Shape:
    """What a chat template writes around an answer."""

    opening: str  # between the prompt for an answer and the answer
    continues: bool  # whether a finished answer stands behind what opens one
    behind: str  # all that follows the answer where it is the last turn
    end: int  # the token that ends the turn
    end_text: str
    closing: str | None  # between the answer and its end; None where the turn ends in no token

    @property
    def kept(self) -> str:
        """What follows an answer in a fitted template: its end, and nothing behind it."""
        return (self.closing or "") + self.end_text


def render(
    tokenizer: Tokenizer,
    turns: Turns,
    *,
    template: str | None = None,
    opens: bool = False,
    tools: Sequence[object] | None = None,
) -> str | None:
    """The conversation as text, and if it `opens` an answer all before that; None where it is refused."""
    holder: Any = tokenizer
    try:
        text: str = holder.apply_chat_template(
            [dict(turn) for turn in turns],
            tools=tools,
            chat_template=template,
            add_generation_prompt=opens,
            tokenize=False,
        )
    except Exception:  # a template is a program, and refuses by whatever it raises
        return None
    return text


def shape_of(tokenizer: Tokenizer, template: str | None = None) -> Shape | None:
    """What the template writes around an answer; None where it refuses, or does not write it as it is."""
    opened = render(tokenizer, [ASKED], template=template, opens=True)
    texts = [
        render(tokenizer, [ASKED, answered(said)], template=template) for said in (SAID, SAID_ELSE)
    ]
    if opened is None or texts[0] is None or texts[1] is None:
        return None
    before, found, behind = texts[0].rpartition(SAID)
    if not found or texts[1] != f"{before}{SAID_ELSE}{behind}":
        return None
    end = _end_in(tokenizer, behind)
    text = _content_of(tokenizer, end)
    closing = behind.partition(text)[0] if text in behind else None
    # Some open an answer with what they leave out of a finished one (a thought): it has no opening then.
    continues = before.startswith(opened)
    opening = before.removeprefix(opened) if continues else ""
    return Shape(opening, continues, behind, end, text, closing)


def end_of_turn(tokenizer: Tokenizer) -> int:
    """The token that ends an assistant's turn in the chat template, which need not be the tokenizer's end.

    A template that ends its turns in plain text, or refuses the conversation, leaves the tokenizer's.
    """
    shape = shape_of(tokenizer)
    return tokenizer.eos_token_id if shape is None else shape.end


def _end_in(tokenizer: Tokenizer, behind: str) -> int:
    rest = behind.lstrip()
    ends = [
        (len(token.content), number)
        for number, token in tokenizer.added_tokens_decoder.items()
        if rest.startswith(token.content)
    ]
    return max(ends)[1] if ends else tokenizer.eos_token_id


def _content_of(tokenizer: Tokenizer, token: int) -> str:
    known = tokenizer.added_tokens_decoder.get(token)
    return known.content if known is not None else tokenizer.eos_token


def fit_templates(tokenizer: Tokenizer) -> None:
    """Fit the tokenizer's templates, and name the tokens that none but they may write."""
    given = tokenizer.chat_template
    if not given:
        bos = "{{ bos_token }}" if puts_bos(tokenizer) else ""
        tokenizer.chat_template = bos + PLAIN_TEMPLATE
    elif isinstance(given, str):
        tokenizer.chat_template = fit(tokenizer, given)
    else:
        tokenizer.chat_template = {name: fit(tokenizer, each) for name, each in given.items()}
    if tokenizer.chat_control_tokens is None:
        tokenizer.chat_control_tokens = control_tokens_beyond_special(tokenizer)


def fit(tokenizer: Tokenizer, source: str) -> str:
    """The template, wrapped so that an answer's end is its last token, and BOS its first where it has one.

    The template itself where it is so already, or where wrapping would change anything else.
    """
    shape = shape_of(tokenizer, source)
    opened = render(tokenizer, [ASKED], template=source, opens=True)
    if shape is None or opened is None:
        return source
    lacks_bos = puts_bos(tokenizer) and not opened.startswith(tokenizer.bos_token)
    if shape.behind == shape.kept and not lacks_bos:
        return source
    fitted = wrap(tokenizer, source, shape, lacks_bos=lacks_bos)
    bos = tokenizer.bos_token if lacks_bos else ""
    return fitted if _changes_nothing_else(tokenizer, source, fitted, shape, bos) else source


def puts_bos(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer puts a BOS before a text."""
    ids = list(tokenizer("a")["input_ids"])
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def wrap(tokenizer: Tokenizer, source: str, shape: Shape, *, lacks_bos: bool) -> str:
    """The template as a block whose text is held back, trimmed, and written.

    `+` keeps the whitespace that Jinja would take from beside the tags of the block.
    """
    body = source.removesuffix("\n")  # which Jinja leaves out
    behind, kept = shape.behind, shape.kept
    marked = GENERATION.search(body) is not None
    if marked:
        body = GENERATION.sub(_as_mark, body)
        within = shape_of(tokenizer, body)
        if within is not None:  # marks may stand among what follows an answer
            behind = within.behind
            end = behind.find(shape.end_text)
            marks = re.sub(f"[^{START}{STOP}]", "", behind[end + len(shape.end_text) :])
            kept = behind[: end + len(shape.end_text)] + marks if end >= 0 else kept
    bos = "{{ bos_token }}" if lacks_bos else ""
    return (
        "{#- Of a conversation that ends with an assistant's turn the turn's end is the last token. #}"
        f"{bos}{{% set text_ +%}}{body}{{%+ endset %}}"
        "{% if not add_generation_prompt and messages and messages[-1]['role'] == 'assistant'"
        f" and text_.endswith({behind!r}) %}}"
        f"{{% set text_ = text_[:(text_ | length) - {len(behind)}] + {kept!r} %}}{{% endif %}}"
        + (_written_with_marks() if marked else "{{ text_ }}")
    )


def _as_mark(tag: re.Match[str]) -> str:
    left, end, right = tag.groups()
    mark = STOP if end else START
    return f"{{%{left} if true %}}{mark}{{% endif {right}%}}"


def _written_with_marks() -> str:
    # What transformers calls generated is what it sees written within the block: pieces are written there.
    return (
        f"{{% for part in text_.split({START!r}) %}}{{% if loop.first %}}{{{{ part }}}}{{% else %}}"
        f"{{% set halves = part.split({STOP!r}) %}}"
        "{% generation %}{{ halves[0] }}{% endgeneration %}{{ halves[1:] | join }}"
        "{% endif %}{% endfor %}"
    )


def _changes_nothing_else(
    tokenizer: Tokenizer, source: str, fitted: str, shape: Shape, bos: str
) -> bool:
    for turns, opens, tools in _trials():
        before = render(tokenizer, turns, template=source, opens=opens, tools=tools)
        after = render(tokenizer, turns, template=fitted, opens=opens, tools=tools)
        if before is not None:
            ends = turns[-1]["role"] == "assistant" and not opens
            if ends and before.endswith(shape.behind):
                before = before[: len(before) - len(shape.behind)] + shape.kept
            before = bos + before
        if before != after:
            return False
    return True


def _trials() -> Iterator[tuple[list[dict[str, object]], bool, list[object] | None]]:
    one: list[dict[str, object]] = [{**ASKED}, answered(SAID)]
    two: list[dict[str, object]] = [*one, {**ASKED}, answered(f" {SAID_ELSE}\n")]
    called: list[dict[str, object]] = [{**ASKED}, {**CALL}, {**FOUND}, answered(SAID)]
    advised: list[dict[str, object]] = [{**SYSTEM}, *two]
    for turns in (one, two, advised, called):
        for count in range(1, len(turns) + 1):
            for opens in (False, True):
                yield turns[:count], opens, None
                yield turns[:count], opens, [{"type": "function", "function": TOOL}]


def control_tokens_beyond_special(tokenizer: Tokenizer) -> list[str]:
    """The added tokens that are not special and yet a template's own: around a user's turn, or at the end.

    Those that a template writes into an answer (`<think>`) are not: an answer may write them too.
    """
    texts = [render(tokenizer, [ASKED], opens=opens) or "" for opens in (False, True)]
    end = end_of_turn(tokenizer)
    return sorted(
        token.content
        for number, token in tokenizer.added_tokens_decoder.items()
        if not token.special
        and re.match(r"[^\w\s]", token.content)  # a word is a word, whoever added it
        and (number == end or all(token.content in text for text in texts))
    )


def control_pattern(tokenizer: Tokenizer) -> re.Pattern[str]:
    """Finds the tokens that steer, where somebody's text spells them."""
    named = set(tokenizer.chat_control_tokens or ())
    tokens = (
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.content and (token.special or token.content in named)
    )
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
