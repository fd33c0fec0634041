"""What the ranking page says in the rater's language, and what its form says back."""

import re
from collections.abc import Iterable

from starlette.datastructures import FormData

from app.errors import InvalidInput
from app.rating.judgement import close_gaps
from app.rating.models import NoteKind
from app.rating.schemas import RankingIn
from app.web.errors import from_pydantic
from app.web.language import gettext as _

DIGITS = re.compile("[0-9]{1,9}")
RANKS = frozenset("123456789")
PREFERENCES = frozenset(("3", "2", "1", "0", "-1", "-2", "-3"))


def list_skip_reasons() -> list[str]:
    """Why a rater may give a task back, in their language."""
    return [
        _("I cannot judge this subject"),
        _("It is not in a language that I read"),
        _("The responses cannot be compared"),
        _("It disturbs me"),
    ]


def list_note_kinds() -> dict[str, str]:
    """What may be the matter with a task, in the rater's language."""
    return {
        NoteKind.AMBIGUOUS: _("What is asked is not clear"),
        NoteKind.BROKEN: _("Something of it is broken or missing"),
        NoteKind.OTHER: _("Something else"),
    }


def list_steps() -> list[tuple[int, str, str]]:
    """The scale between two responses: preference, its sign on a phone, and what it says."""
    return [
        (3, "A", _("A much better")),
        (2, "A", _("A better")),
        (1, "A", _("A slightly better")),
        (0, "=", _("About the same")),
        (-1, "B", _("B slightly better")),
        (-2, "B", _("B better")),
        (-3, "B", _("B much better")),
    ]


def describe_strength(strength: int | None) -> str | None:
    """How much better the better of two was, from 1 (slightly) to 3 (much)."""
    if strength is None:
        return None
    return (_("slightly better"), _("better"), _("much better"))[strength - 1]


def list_roles() -> dict[str, str]:
    """Who says a message of a conversation."""
    return {"user": _("Prompt"), "assistant": _("Assistant"), "system": _("System prompt")}


def list_words() -> dict[str, str]:
    """What the ranking page's script says, in the rater's language; {…} is filled in there."""
    return {
        "place": _("{letter} is now in place {place}"),
        "tied": _("{letter} is now in place {place}, tied with {others}"),
        "unplaced": _("{letter} has no place now"),
        "to_go": _("{count} to go"),
        "all_placed": _("Every response has a place; Enter submits"),
        "response": _("Response {letter}, place {place}"),
        "response_unplaced": _("Response {letter}, no place yet"),
        "incomplete": _("Every response needs a place before you submit"),
        "no_preference": _("Choose how the two compare before you submit"),
        "only_places": _("There are only {count} places"),
        "nothing_to_undo": _("Nothing to undo"),
        "nothing_placed": _("Nothing placed yet"),
        "look_first": _(
            "Response {letter} was not on the screen. Here it is: look, and press again"
        ),
        "kept": _("Response {letter} stays beside the others"),
        "show_all": _("Show all"),
        "fold": _("Fold"),
        "as_source": _("Response {letter} as it was written"),
        "as_rendered": _("Response {letter} as it reads"),
        "all_as_source": _("All responses as they were written"),
        "all_as_rendered": _("All responses as they read"),
        "unseen": _("Look at each response to its end first: {letters}"),
        "noted": _("The admins have your note"),
        "saved": _("Draft saved"),
        "kept_here": _("Draft kept in this browser"),
        "sending": _("Sending …"),
        "stored": _("Stored"),
        "change": _("Change it"),
        "next_task": _("Next task, {count} responses."),
        "nothing_left": _("Nothing is left."),
        "waiting_line": _("No connection. {count} to send as soon as it is back; nothing is lost."),
        "signed_out": _("You are signed out. Sign in, and what waits here is sent."),
        "refused": _("Not stored: {reason}"),
        "look": _("Look at it"),
        "discard": _("Discard it"),
        "back_to_it": _("Go back to it"),
        "best_first": _("Give a response the first place before you start from it"),
        "session": _("{count} in {time}"),
        "pause": _(
            "You have been at it for {minutes} minutes. A few minutes away keep your eye fresh."
        ),
        "dismiss": _("Go on"),
    }


def read_form(form: FormData) -> RankingIn:
    """The ranking in a form: rank-ID or pair and preference, axis-NAME(-ID), flags, texts, seconds.

    Raises InvalidInput for a card without a rank, or anything that is no number.
    """
    ranks: dict[str, int] = {}
    of_the_best: dict[str, object] = {}
    of_each: dict[str, dict[str, object]] = {}
    for name, value in form.items():
        if name.startswith("rank-"):
            # Nine candidates at most: one digit of the ten, not what else Unicode calls a digit.
            if value not in RANKS:
                raise InvalidInput(
                    _("Every response needs a place before you submit"), field="ranks"
                )
            ranks[name.removeprefix("rank-")] = int(str(value))
        elif name.startswith("axis-") and value != "":
            of_the_best[name.removeprefix("axis-")] = value
        elif name.startswith("each-") and value != "":
            axis, _sep, candidate = name.removeprefix("each-").partition(":")
            of_each.setdefault(axis, {})[candidate] = value
    strength = None
    if "pair" in form:
        ranks, strength = read_preference(form)
    with from_pydantic():
        return RankingIn.model_validate(
            {
                # Ranks without a gap: 1, 3, 3 is 1, 2, 2.
                "ranks": close_gaps(ranks),
                "strength": strength,
                "axes": of_the_best | of_each,
                "flags": [str(flag) for flag in form.getlist("flags")],
                "rationale": _text(form.get("rationale")),
                "rewrite": _lines(form.get("rewrite")),
                "seconds": form.get("seconds") or None,
                "guideline_version": _whole(form.get("guideline_version")),
                "questions": form.get("questions") or None,
                "seen": str(form.get("seen") or "").split() or None,
            }
        )


def restore_line_ends(given: RankingIn, originals: Iterable[str]) -> RankingIn:
    """The ranking; a rewrite that only repeats a response has that one's own ends of lines.

    A text box makes each of them LF, whatever it was filled with.
    """
    for original in originals:
        if "\r" in original and given.rewrite == re.sub("\r\n?", "\n", original):
            return given.model_copy(update={"rewrite": original})
    return given


def read_preference(form: FormData) -> tuple[dict[str, int], int | None]:
    """(ranks, strength) of two candidates from 3 (the first is much better) to -3 (the second is)."""
    pair, given = [str(each) for each in form.getlist("pair")], form.get("preference")
    if len(pair) != 2 or given not in PREFERENCES:
        raise InvalidInput(_("Choose how the two compare before you submit"), field="ranks")
    preference = int(str(given))
    first, second = (1, 2) if preference > 0 else (2, 1) if preference < 0 else (1, 1)
    return {pair[0]: first, pair[1]: second}, abs(preference) or None


def _whole(value: object) -> object:
    # A number as a form sends it; the model says what is wrong with anything else.
    return int(value) if isinstance(value, str) and DIGITS.fullmatch(value) else value or None


def _lines(value: object) -> str | None:
    # Browsers send CRLF for a line's end.
    text = str(value or "").replace("\r\n", "\n")
    return text if text.strip() else None


def _text(value: object) -> str | None:
    return (_lines(value) or "").strip() or None
