"""The layouts of public preference data, in one table: how the columns of each become rows of ours.

A layout takes a record (or the few neighbours that belong to one prompt) and gives rows; what it has beside
texts and judgments goes to the metadata. Scores are kept as metadata too: they make a ranking only where
the sender asks by which of them (`rank_by`). Where nobody is named as the rater, the layout's name stands
for whoever it was.

Columns are those of the data's public descriptions; each entry says where.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from app.prompts.layout import (
    Layout,
    Rows,
    Use,
    rank_scores,
    to_choice,
    to_list,
    to_number,
    to_object,
)
from app.prompts.parse import FIELDS, FieldError, Row

NONE_IS_GOOD = "none-is-good"


def recognise(columns: set[str]) -> list[Layout]:
    """The layout that the columns fit: one that needs all that another needs, and more, is the more exact.

    Empty where none fits, several where it is not clear.
    """
    if columns <= FIELDS and not columns & {"score_chosen", "margin"}:
        return [OWN]
    fits = [each for each in LAYOUTS.values() if each.needs and each.needs <= columns]
    best = [one for one in fits if not any(one.needs < other.needs for other in fits)]
    # Of two that need the same, the one that knows every column.
    whole = [each for each in best if columns <= each.needs | each.knows]
    return whole or best


def _ranks(winner: int) -> list[int]:
    return [1, 2] if winner == 0 else [2, 1]


def _hash(*parts: object) -> str:
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _candidate(text: object, policy: object = None) -> Row:
    return {"text": text} if policy in (None, "") else {"text": text, "policy": policy}


def _turns(prompt: object) -> object:
    """The messages of a prompt that ends in a transcript's marker; any other stays as it is."""
    if not isinstance(prompt, str) or not prompt.startswith("\n\nHuman:"):
        return prompt
    from app.prompts.transcripts import parse_transcript

    turns = parse_transcript(prompt)
    if turns[-1][0] == "assistant" and not turns[-1][1].strip():
        turns = turns[:-1]
    return [{"role": role, "content": text.removeprefix(" ")} for role, text in turns]


def _own(use: Use) -> Rows:
    row = use.first
    if "turns" in row:
        return [_question(row)]
    unknown = sorted(set(row) - FIELDS)
    if not unknown or not use.keep_extra:
        return [row]  # its own reader names what it does not know
    extra = {name: row.pop(name) for name in unknown}
    metadata = row.get("metadata") or {}
    if not isinstance(metadata, dict):
        return [row]
    return [{**row, "metadata": {**extra, **metadata}}]


def _question(row: Row) -> Row:
    """FastChat's `{question_id, category, turns}`: the first turn asks; the rest is kept as metadata."""
    unknown = sorted(set(row) - {"question_id", "category", "turns", "reference"})
    if unknown:
        raise FieldError(unknown[0], "does not go together with turns")
    turns = to_list("turns", row["turns"])
    kept = {name: value for name, value in row.items() if name != "question_id"}
    return {"id": row.get("question_id"), "prompt": turns[0], "metadata": kept}


def _pair(use: Use) -> Rows:
    """`chosen` and `rejected` as the import format has them, with scores or a source beside them."""
    use.take("messages")  # the prompt and the chosen response once more
    fields = {name: use.take(name) for name in ("prompt", "chosen", "rejected")}
    margin = use.first.get("margin")
    # A whole number of steps from slightly to much is a strength; any other margin is kept as it is.
    strength = int(margin) if isinstance(margin, int | float) and margin in (1, 2, 3) else None
    return [use.row(**fields, strength=strength)]


def _argilla_pair(use: Use) -> Rows:
    chosen, rejected = use.take("chosen"), use.take("rejected")
    prompt = use.take("prompt")
    texts = []
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        last = to_object(name, to_list(name, side)[-1])
        texts.append(last.get("content"))
    policies = [use.take(f"{side}-model") for side in ("chosen", "rejected")]
    candidates = [_candidate(text, policy) for text, policy in zip(texts, policies, strict=True)]
    return [
        use.row(prompt=prompt, candidates=candidates, ranks=[1, 2], rater=use.layout.name),
    ]


def _nectar(use: Use) -> Rows:
    answers = [
        to_object("answers", each) for each in to_list("answers", use.take("answers"), least=2)
    ]
    ranks = [to_number("answers", each.get("rank")) for each in answers]
    candidates = [_candidate(each.get("answer"), each.get("model")) for each in answers]
    return [
        use.row(
            prompt=_turns(use.take("prompt")),
            candidates=candidates,
            ranks=rank_scores([-each for each in ranks]),
            rater=use.layout.name,
        )
    ]


HELPSTEER_AXES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def _helpsteer(use: Use) -> Rows:
    prompt = _special_turns(use.first.pop("prompt"))
    for record in use.records[1:]:
        record.pop("prompt")
    texts = [record.pop("response") for record in use.records]
    if len(texts) < 2:
        raise FieldError("response", "is the only one to its prompt: there is nothing to rank")
    scores = {axis: [record.pop(axis) for record in use.records] for axis in HELPSTEER_AXES}
    return [
        use.row(
            {"scores": scores},
            prompt=prompt,
            candidates=[_candidate(text) for text in texts],
            **use.ranking(scores),
        )
    ]


def _special_turns(prompt: object) -> object:
    """HelpSteer2 parts the turns of a longer conversation by `<extra_id_1>` and the speaker's name."""
    if not isinstance(prompt, str) or "<extra_id_1>" not in prompt:
        return prompt
    first, *others = prompt.split("<extra_id_1>")
    messages = [{"role": "user", "content": first.removesuffix("\n")}]
    for turn in others:
        speaker, _, text = turn.partition("\n")
        if speaker not in ("User", "Assistant"):
            return prompt
        role = "user" if speaker == "User" else "assistant"
        messages.append({"role": role, "content": text.removesuffix("\n")})
    return messages


def _helpsteer3(use: Use) -> Rows:
    context = use.take("context")
    responses = [use.take("response1"), use.take("response2")]
    judged = to_list("individual_preference", use.take("individual_preference"))
    overall = use.take("overall_preference")
    own = _hash(context, responses)
    rows = []
    for number, each in enumerate(judged, start=1):
        given = to_object("individual_preference", each)
        score = to_number("individual_preference.score", given.get("score"))
        rows.append(
            use.row(
                {"overall_preference": overall},
                id=own,
                prompt=context,
                candidates=[_candidate(text) for text in responses],
                # From -3 (the first is much better) to 3 (the second is).
                ranks=[1, 1] if score == 0 else _ranks(int(score > 0)),
                strength=int(abs(score)) or None,
                rationale=given.get("reasoning"),
                # They are told apart within a prompt alone.
                rater=f"{use.layout.name} {number}",
            )
        )
    return rows


def _shp(use: Use) -> Rows:
    winner = to_choice("labels", use.take("labels"), {1: 0, 0: 1})
    texts = [use.take("human_ref_A"), use.take("human_ref_B")]
    return [
        use.row(
            prompt=use.take("history"),
            candidates=[_candidate(text) for text in texts],
            ranks=_ranks(winner),
            rater=use.layout.name,
        )
    ]


def _webgpt(use: Use) -> Rows:
    question = use.take("question")
    if isinstance(question, dict):
        text, kept = question.get("full_text"), {"question": question}
    else:
        text, kept = question, {}
    scores = [to_number(name, use.first.get(name)) for name in ("score_0", "score_1")]
    texts = [use.take("answer_0"), use.take("answer_1")]
    return [
        use.row(
            kept,
            prompt=text,
            candidates=[_candidate(each) for each in texts],
            ranks=rank_scores(scores),
            rater=use.layout.name,
        )
    ]


def _pku(use: Use) -> Rows:
    better = to_choice("better_response_id", use.take("better_response_id"), {0: 0, 1: 1})
    texts = [use.take("response_0"), use.take("response_1")]
    policies = [use.take("response_0_source"), use.take("response_1_source")]
    return [
        use.row(
            prompt=use.take("prompt"),
            candidates=[_candidate(*each) for each in zip(texts, policies, strict=True)],
            ranks=_ranks(better),
            rater=use.layout.name,
        )
    ]


def _oasst_flat(use: Use) -> Rows:
    messages: dict[object, Row] = {}
    replies: dict[object, Rows] = {}
    for record in use.records:
        messages[record.get("message_id")] = record
        replies.setdefault(record.get("parent_id"), []).append(record)
    rows = []
    for message in use.records:
        if message.get("role") == "prompter":
            path = []
            step: Row | None = message
            while step is not None:
                path.append(step)
                parent = step.get("parent_id")
                if parent is not None and parent not in messages:
                    raise FieldError("parent_id", "is not the id of a message of this tree")
                step = messages[parent] if parent is not None else None
                if len(path) > len(messages):
                    raise FieldError("parent_id", "leads round in a circle")
            rows += _oasst_prompt(use, path[::-1], replies.get(message.get("message_id"), []))
    return rows


def _oasst_tree(use: Use) -> Rows:
    rows: Rows = []

    def walk(path: Rows) -> None:
        below = [to_object("replies", each) for each in path[-1].get("replies") or ()]  # type: ignore[attr-defined]
        if path[-1].get("role") == "prompter":
            rows.extend(_oasst_prompt(use, path, below))
        for each in below:
            walk([*path, each])

    walk([to_object("prompt", use.take("prompt"))])
    return rows


def _oasst_prompt(use: Use, path: Rows, replies: Rows) -> Rows:
    """One prompt with its ranked replies. With one, or none, there is nothing to rank."""
    roles = {"prompter": "user", "assistant": "assistant"}
    ranked = sorted(
        (each for each in replies if each.get("rank") is not None),
        key=lambda each: to_number("rank", each.get("rank")),
    )
    if not ranked:
        return []
    own = path[-1]
    metadata = {
        name: own[name] for name in ("lang", "message_tree_id", "tree_state") if own.get(name)
    }
    prompt = [
        {"role": roles.get(str(each.get("role")), each.get("role")), "content": each.get("text")}
        for each in path
    ]
    row: Row = {"id": own.get("message_id"), "prompt": prompt}
    if len(ranked) == 1:
        return [{**row, "metadata": {**metadata, "reply": ranked[0].get("text")}}]
    scores = [-to_number("rank", each.get("rank")) for each in ranked]
    return [
        {
            **row,
            "candidates": [_candidate(each.get("text")) for each in ranked],
            "ranks": rank_scores(scores),
            "rater": use.layout.name,
            "metadata": metadata,
        }
    ]


WINNERS = {"model_a": [1, 2], "model_b": [2, 1], "tie": [1, 1], "tie (bothbad)": [1, 1]}


def _arena(use: Use) -> Rows:
    sides = [to_list(f"conversation_{side}", use.take(f"conversation_{side}")) for side in "ab"]
    shared = 0
    while shared < min(map(len, sides)) and sides[0][shared] == sides[1][shared]:
        shared += 1
    prompt = sides[0][:shared]
    while prompt and to_object("conversation_a", prompt[-1]).get("role") != "user":
        prompt = prompt[:-1]
    winner = use.take("winner")
    if winner not in WINNERS:
        raise FieldError("winner", f"must be one of {', '.join(WINNERS)}")
    policies = [use.take(f"model_{side}") for side in "ab"]
    texts = [
        _rest(f"conversation_{side}", each[len(prompt) :])
        for side, each in zip("ab", sides, strict=True)
    ]
    moment = use.first.get("tstamp")
    early = max(map(len, sides)) > len(prompt) + 1
    return [
        use.row(
            {"parts_early": True} if early else None,
            id=use.take("question_id"),
            prompt=prompt,
            candidates=[_candidate(*each) for each in zip(texts, policies, strict=True)],
            ranks=WINNERS[str(winner)],
            rater=use.take("judge") or use.layout.name,
            flags=[NONE_IS_GOOD] if winner == "tie (bothbad)" else None,
            at=None if moment is None else _moment("tstamp", moment),
        )
    ]


def _rest(name: str, messages: Sequence[object]) -> object:
    """All that follows a prompt: one answer, or several turns with a transcript's markers between."""
    if not messages:
        raise FieldError(name, "has no answer to what both were asked")
    names = {"user": "Human", "assistant": "Assistant"}
    first, *others = (to_object(name, each) for each in messages)
    text = first.get("content")
    if not others:
        return text
    for each in others:
        speaker = names.get(str(each.get("role")))
        if speaker is None or not isinstance(text, str):
            raise FieldError(name, "must be a list of user's and assistant's messages")
        text = f"{text}\n\n{speaker}: {each.get('content')}"
    return text


def _moment(name: str, value: object) -> str:
    seconds = to_number(name, value)
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (OverflowError, OSError, ValueError):
        raise FieldError(name, "is no moment in seconds since 1970") from None


def _arena_votes(use: Use) -> Rows:
    turns = [_json_list(name, use.take(name)) for name in ("prompt", "response_a", "response_b")]
    if len({len(each) for each in turns}) != 1:
        raise FieldError("prompt", "has another number of turns than its responses")
    won = [to_number(name, use.take(name)) for name in ("winner_model_a", "winner_model_b")]
    use.take("winner_tie")
    asked, *answers = turns
    texts = []
    for side in answers:
        text = side[0]
        for question, answer in zip(asked[1:], side[1:], strict=True):
            text = f"{text}\n\nHuman: {question}\n\nAssistant: {answer}"
        texts.append(text)
    policies = [use.take("model_a"), use.take("model_b")]
    return [
        use.row(
            {"parts_early": True} if len(asked) > 1 else None,
            id=use.take("id"),
            prompt=asked[0],
            candidates=[_candidate(*each) for each in zip(texts, policies, strict=True)],
            ranks=rank_scores(won),
            rater=use.layout.name,
        )
    ]


def _json_list(name: str, value: object) -> list[object]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise FieldError(name, "must be a list as JSON text") from None
    return to_list(name, value)


def _orca(use: Use) -> Rows:
    system, question = use.take("system"), use.take("question")
    prompt: list[Row] = [{"role": "user", "content": question}]
    if system not in (None, ""):
        prompt.insert(0, {"role": "system", "content": system})
    return [use.row(prompt=prompt, chosen=use.take("chosen"), rejected=use.take("rejected"))]


SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
SPEAKERS |= {"system": "system"}


def _sharegpt(use: Use) -> Rows:
    prompt = [
        _from_value("conversations", each)
        for each in to_list("conversations", use.take("conversations"))
    ]
    sides = {}
    for name in ("chosen", "rejected"):
        given = use.take(name)
        sides[name] = [_from_value(name, given[-1] if isinstance(given, list) and given else given)]
    return [use.row(prompt=prompt, **sides)]


def _from_value(name: str, message: object) -> Row:
    given = to_object(name, message)
    role = SPEAKERS.get(str(given.get("from")))
    if role is None:
        raise FieldError(f"{name}.from", f"must be one of {', '.join(SPEAKERS)}")
    return {"role": role, "content": given.get("value")}


def _kto(use: Use) -> Rows:
    prompt = use.first.pop("prompt")
    for record in use.records[1:]:
        record.pop("prompt")
    texts, labels = [], []
    for record in use.records:
        completion = record.pop("completion")
        if isinstance(completion, list):
            completion = to_object("completion", to_list("completion", completion)[-1]).get(
                "content"
            )
        texts.append(completion)
        labels.append(
            float(to_choice("label", record.pop("label"), {"false": 0, "true": 1, "0": 0, "1": 1}))
        )
    if len(texts) < 2:
        raise FieldError("completion", "is the only one to its prompt: there is nothing to rank")
    return [
        use.row(
            {"labels": [bool(each) for each in labels]},
            prompt=prompt,
            candidates=[_candidate(text) for text in texts],
            ranks=rank_scores(labels),
            rater=use.layout.name,
        )
    ]


def _openai(use: Use) -> Rows:
    given = to_object("input", use.take("input"))
    metadata = {name: value for name, value in given.items() if name != "messages" and value}
    return [
        use.row(
            metadata,
            prompt=given.get("messages"),
            chosen=use.take("preferred_output"),
            rejected=use.take("non_preferred_output"),
        )
    ]


def _ultrafeedback(use: Use) -> Rows:
    made = [
        dict(to_object("completions", each))
        for each in to_list("completions", use.take("completions"), least=2)
    ]
    use.take("models")
    scores = {"overall_score": [each.pop("overall_score", None) for each in made]}
    if any("fine-grained_score" in each for each in made):
        scores["fine-grained_score"] = [each.pop("fine-grained_score", None) for each in made]
    candidates = [_candidate(each.pop("response", None), each.pop("model", None)) for each in made]
    return [
        use.row(
            {"scores": scores, "completions": made},
            prompt=use.take("instruction"),
            candidates=candidates,
            **use.ranking(scores),
        )
    ]


ASKS = ("instruction", "prompt", "question", "input", "context")


def _argilla(use: Use) -> Rows:
    fields = to_object("fields", use.take("fields"))
    responses = use.take("responses") or []
    metadata = to_object("metadata", use.take("metadata") or {})
    external = use.take("external_id")
    judged: list[tuple[object, dict[str, int]]] = []
    for each in responses if isinstance(responses, list) else ():
        response = to_object("responses", each)
        if response.get("status", "submitted") != "submitted":
            continue
        for value in to_object("responses.values", response.get("values")).values():
            given = to_object("responses.values", value).get("value")
            if isinstance(given, list) and all(
                isinstance(one, dict) and "rank" in one for one in given
            ):
                ranks = {str(one["value"]): int(to_number("rank", one["rank"])) for one in given}
                judged.append((response.get("user_id"), ranks))
    named = list(dict.fromkeys(name for _, ranks in judged for name in ranks))
    asked = next((name for name in ASKS if name in fields and name not in named), None)
    names = named or [name for name in fields if name != asked]
    if asked is None:
        raise FieldError("fields", f"has none of {', '.join(ASKS)}: which one asks is not known")
    for name in names:
        if name not in fields:
            raise FieldError("responses", f"ranks {name!r}, which is no field")
    row: Row = {
        "id": external or _hash(fields),
        "prompt": fields[asked],
        "candidates": [_candidate(fields[name]) for name in names],
    }
    metadata |= {name: value for name, value in fields.items() if name not in (asked, *names)}
    rows = []
    for rater, ranks in judged:
        scores = [-float(ranks[name]) for name in names if name in ranks]
        if len(scores) != len(names):
            raise FieldError("responses", "leaves a response without a rank")
        rows.append(
            use.row(metadata, **row, ranks=rank_scores(scores), rater=rater or use.layout.name)
        )
    return rows or [use.row(metadata, **row)]


def _label_studio(use: Use) -> Rows:
    data = to_object("data", use.take("data"))
    annotations = to_list("annotations", use.take("annotations"), least=0)
    use.take("predictions")
    asked = next((name for name in ASKS if name in data), None)
    if asked is None:
        raise FieldError("data", f"has none of {', '.join(ASKS)}: which one asks is not known")
    items = data.get("items")
    if isinstance(items, list):
        given = [to_object("data.items", each) for each in items]
        keys = [str(each.get("id")) for each in given]
        texts = [each.get("body", each.get("html", each.get("title"))) for each in given]
    else:
        keys = [name for name, value in data.items() if name != asked and isinstance(value, str)]
        if len(keys) != 2:
            raise FieldError("data", "must hold items, or a prompt and two responses")
        texts = [data[name] for name in keys]
    row: Row = {
        "id": None if use.first.get("id") is None else f"label-studio {use.take('id')}",
        "prompt": data[asked],
        "candidates": [_candidate(text) for text in texts],
    }
    rows = []
    for each in annotations:
        annotation = to_object("annotations", each)
        if annotation.get("was_cancelled"):
            continue
        ranks = _label_studio_ranks(annotation, keys)
        if ranks is None:
            continue
        by = annotation.get("completed_by")
        by = by.get("email") or by.get("id") if isinstance(by, dict) else by
        rows.append(
            use.row(
                None,
                **row,
                ranks=ranks,
                rater=by if by is not None else use.layout.name,
                seconds=annotation.get("lead_time"),
                at=annotation.get("created_at"),
            )
        )
    return rows or [use.row(None, **row)]


def _label_studio_ranks(annotation: Mapping[str, object], keys: Sequence[str]) -> list[int] | None:
    for each in to_list("annotations.result", annotation.get("result"), least=0):
        result = to_object("annotations.result", each)
        value = to_object("annotations.result.value", result.get("value"))
        if result.get("type") == "pairwise":
            sides = {"left": [1, 2], "right": [2, 1], "equal": [1, 1]}
            selected = str(value.get("selected"))
            if selected not in sides:
                raise FieldError("annotations.result", "its selected is neither left nor right")
            return sides[selected]
        if result.get("type") == "ranker":
            given = value.get("ranker")
            if isinstance(given, dict):
                given = next(iter(given.values()), None) if "rank" not in given else given["rank"]
            order = [str(one) for one in to_list("annotations.result", given)]
            if sorted(order) != sorted(keys):
                raise FieldError("annotations.result", "does not rank each of the items once")
            return [order.index(key) + 1 for key in keys]
    return None


def _own_rankings(use: Use) -> Rows:
    """A line of `rankings.*.jsonl` of our exports: one row a ranking."""
    candidates = [
        to_object("candidates", each)
        for each in to_list("candidates", use.take("candidates"), least=2)
    ]
    ids = [str(each.get("id")) for each in candidates]
    row: Row = {
        "id": use.take("prompt_id"),
        "prompt": use.take("messages"),
        "candidates": [_candidate(each.get("text"), each.get("policy")) for each in candidates],
        "metadata": use.take("metadata") or None,
    }
    rows = []
    for each in to_list("rankings", use.take("rankings"), least=0):
        said = to_object("rankings", each)
        ranks = to_object("rankings.ranks", said.get("ranks"))
        presented = said.get("presented")
        rows.append(
            {
                **row,
                "rater": said.get("rater"),
                "ranks": [ranks.get(one) for one in ids],
                "axes": {
                    name: [score.get(one) for one in ids] if isinstance(score, dict) else score
                    for name, score in to_object("rankings.axes", said.get("axes") or {}).items()
                },
                **{
                    name: said[name]
                    for name in ("strength", "flags", "rationale", "seconds", "keep_gaps", "blind")
                    if said.get(name) is not None
                },
                "presented": [ids.index(str(one)) for one in presented]
                if isinstance(presented, list) and {str(one) for one in presented} == set(ids)
                else None,
            }
        )
    return [
        {name: value for name, value in each.items() if value is not None} for each in rows or [row]
    ]


def _own_comparisons(use: Use) -> Rows:
    """A line of `comparisons.*` of our exports."""
    prompt, rater = use.take("prompt"), use.take("rater")
    texts = []
    for name in ("chosen", "rejected"):
        texts.append(to_object(name, to_list(name, use.take(name))[-1]).get("content"))
    policies = [use.take("chosen_policy"), use.take("rejected_policy")]
    return [
        use.row(
            prompt=prompt,
            candidates=[_candidate(*each) for each in zip(texts, policies, strict=True)],
            ranks=[1, 2],
            rater=rater,
        )
    ]


def _columns(*names: str) -> frozenset[str]:
    return frozenset(name for each in names for name in each.split())


PAIR = _columns("chosen rejected")
OWN = Layout(name="plackett", title="the import format", needs=frozenset(), make=_own)

_ALL = (
    OWN,
    # docs/export-format.md
    Layout(
        name="plackett-rankings",
        title="rankings of a Plackett export",
        needs=_columns("prompt_id messages candidates rankings"),
        knows=_columns("metadata split"),
        make=_own_rankings,
    ),
    Layout(
        name="plackett-comparisons",
        title="comparisons of a Plackett export",
        needs=PAIR | _columns("prompt prompt_id rater margin weight"),
        knows=_columns("chosen_policy rejected_policy"),
        make=_own_comparisons,
    ),
    # HuggingFaceH4/ultrafeedback_binarized and trl-lib/ultrafeedback_binarized, their dataset cards.
    Layout(
        name="ultrafeedback-binarized",
        title="UltraFeedback (binarized)",
        needs=PAIR | _columns("score_chosen score_rejected"),
        knows=_columns("prompt prompt_id messages"),
        make=_pair,
    ),
    # openbmb/UltraFeedback, its dataset card.
    Layout(
        name="ultrafeedback",
        title="UltraFeedback",
        needs=_columns("instruction completions"),
        knows=_columns("source models correct_answers incorrect_answers"),
        make=_ultrafeedback,
    ),
    # argilla/ultrafeedback-binarized-preferences-cleaned, its dataset card.
    Layout(
        name="argilla-ultrafeedback",
        title="UltraFeedback (Argilla's)",
        needs=PAIR | _columns("prompt chosen-rating rejected-rating chosen-model rejected-model"),
        knows=_columns("source"),
        make=_argilla_pair,
    ),
    # Skywork/Skywork-Reward-Preference-80K, its dataset card.
    Layout(
        name="skywork",
        title="Skywork preferences",
        needs=PAIR | _columns("source"),
        knows=_columns("prompt"),
        make=_pair,
    ),
    Layout(
        name="pairs-with-margin",
        title="pairs with a margin",
        needs=PAIR | _columns("margin"),
        knows=_columns("prompt"),
        make=_pair,
    ),
    # Zhu et al. 2023, Starling; berkeley-nest/Nectar, its dataset card.
    Layout(
        name="nectar",
        title="Nectar",
        needs=_columns("prompt answers"),
        knows=_columns("turns num_responses source good_natured"),
        make=_nectar,
    ),
    # nvidia/HelpSteer and nvidia/HelpSteer2 (Wang et al. 2024, arXiv 2406.08673): the same columns.
    Layout(
        name="helpsteer2",
        title="HelpSteer or HelpSteer2",
        needs=_columns("prompt response", *HELPSTEER_AXES),
        make=_helpsteer,
        key=lambda record: json.dumps(record.get("prompt"), sort_keys=True, default=str),
    ),
    # nvidia/HelpSteer3 (Wang et al. 2025, arXiv 2505.11475), preference subset.
    Layout(
        name="helpsteer3",
        title="HelpSteer3",
        needs=_columns("context response1 response2 individual_preference"),
        knows=_columns("domain language overall_preference"),
        make=_helpsteer3,
    ),
    # Ethayarajh et al. 2022; stanfordnlp/SHP, its dataset card.
    Layout(
        name="shp",
        title="SHP",
        needs=_columns("history human_ref_A human_ref_B labels"),
        knows=_columns("post_id domain upvote_ratio c_root_id_A c_root_id_B created_at_utc_A")
        | _columns("created_at_utc_B score_A score_B seconds_difference score_ratio"),
        make=_shp,
    ),
    # Nakano et al. 2021; openai/webgpt_comparisons, its dataset card.
    Layout(
        name="webgpt",
        title="WebGPT comparisons",
        needs=_columns("question answer_0 answer_1 score_0 score_1"),
        knows=_columns("quotes_0 quotes_1 tokens_0 tokens_1 dataset"),
        make=_webgpt,
    ),
    # Ji et al. 2024, arXiv 2406.15513; PKU-Alignment/PKU-SafeRLHF, its dataset card.
    Layout(
        name="pku-saferlhf",
        title="PKU-SafeRLHF",
        needs=_columns("prompt response_0 response_1 better_response_id safer_response_id"),
        knows=_columns("prompt_source response_0_source response_1_source is_response_0_safe")
        | _columns("is_response_1_safe response_0_harm_category response_1_harm_category")
        | _columns("response_0_severity_level response_1_severity_level")
        | _columns("response_0_sha256 response_1_sha256"),
        make=_pku,
    ),
    # Köpf et al. 2023, arXiv 2304.07327; OpenAssistant/oasst1 and oasst2.
    Layout(
        name="oasst",
        title="OpenAssistant messages",
        needs=_columns("message_id parent_id text role message_tree_id"),
        knows=_columns(
            "user_id created_date lang review_count review_result deleted rank synthetic"
        )
        | _columns("model_name detoxify tree_state emojis labels"),
        make=_oasst_flat,
        key=lambda record: str(record.get("message_tree_id")),
    ),
    Layout(
        name="oasst-trees",
        title="OpenAssistant trees",
        needs=_columns("message_tree_id tree_state prompt"),
        knows=_columns("origin"),
        make=_oasst_tree,
    ),
    # Zheng et al. 2023, arXiv 2306.05685; lmsys/chatbot_arena_conversations and arena-human-preference.
    Layout(
        name="arena",
        title="Chatbot Arena",
        needs=_columns("model_a model_b winner conversation_a conversation_b"),
        knows=_columns("question_id judge turn anony language tstamp openai_moderation")
        | _columns("toxic_chat_tag conv_metadata is_code is_refusal dedup_tag category_tag"),
        make=_arena,
    ),
    Layout(
        name="arena-55k",
        title="Chatbot Arena (55k)",
        needs=_columns("model_a model_b prompt response_a response_b winner_model_a")
        | _columns("winner_model_b winner_tie"),
        knows=_columns("id"),
        make=_arena_votes,
    ),
    # Intel/orca_dpo_pairs, its dataset card.
    Layout(
        name="orca-dpo",
        title="Orca DPO pairs",
        needs=PAIR | _columns("system question"),
        make=_orca,
    ),
    # LLaMA-Factory's data/README.md, ShareGPT format, preference.
    Layout(
        name="sharegpt-dpo",
        title="ShareGPT preference pairs",
        needs=PAIR | _columns("conversations"),
        knows=_columns("system tools source"),
        make=_sharegpt,
    ),
    # TRL's documentation, dataset formats: unpaired preference.
    Layout(
        name="kto",
        title="KTO",
        needs=_columns("prompt completion label"),
        make=_kto,
        key=lambda record: json.dumps(record.get("prompt"), sort_keys=True, default=str),
    ),
    # OpenAI's guide to preference fine-tuning.
    Layout(
        name="openai-preference",
        title="OpenAI's preference format",
        needs=_columns("input preferred_output non_preferred_output"),
        make=_openai,
    ),
    # Argilla's documentation, feedback records with a ranking question.
    Layout(
        name="argilla",
        title="Argilla records",
        needs=_columns("fields responses"),
        knows=_columns("id external_id metadata suggestions status vectors inserted_at updated_at"),
        make=_argilla,
    ),
    # Label Studio's documentation, JSON export; Ranker and Pairwise tags.
    Layout(
        name="label-studio",
        title="Label Studio",
        needs=_columns("data annotations"),
        knows=_columns(
            "id predictions drafts meta created_at updated_at inner_id project file_upload"
        )
        | _columns("total_annotations cancelled_annotations total_predictions comment_count")
        | _columns("unresolved_comment_count last_comment_updated_at updated_by comment_authors"),
        make=_label_studio,
    ),
)
LAYOUTS = {each.name: each for each in _ALL}
# Other names of the same columns: HelpSteer's are its second part's; transcripts are read as they are.
ALIASES = {"hh": OWN.name, "helpsteer": "helpsteer2"}
