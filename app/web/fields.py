"""How an error is told to whoever filled in a form: which field it marks, and the field's name for people.

A message that begins with a small letter says what is wrong with a field ("is empty"), and needs its name
before it; one that begins with a capital is a sentence by itself.
"""

from app.errors import PlackettError
from app.web.language import gettext
from app.web.language import gettext as _

# Fields that a form asks for in other units, or under another name.
ASKED_AS = {
    "lease_seconds": "lease_minutes",
    "edit_seconds": "edit_minutes",
    "gold_rate": "gold_percent",
    "split": "train",  # the first of three
    "qualification_accuracy": "qualification_percent",
}


def input_of(field: str) -> str:
    """The name of the input that a field's error belongs to: `split.seed` is asked for as `seed`."""
    parts = field.split(".")
    if parts[0] in ("axes", "flags") and len(parts) == 3:
        return f"{parts[0].replace('axes', 'axis').replace('flags', 'flag')}_{parts[2]}"
    last = parts[-1]
    return ASKED_AS.get(last, last)


def name_field(field: str) -> str:
    """The field as its form calls it, in the reader's language."""
    known = {
        "email": _("The e-mail address"),
        "password": _("The password"),
        "current": _("The current password"),
        "name": _("The name"),
        "language": _("The language"),
        "reason": _("The reason"),
        "ranks": _("The ranking"),
        "axes": _("The scores"),
        "flags": _("The flags"),
        "rationale": _("The reason given"),
        "rewrite": _("Your own version"),
        "seconds": _("The time taken"),
        "page": _("The page's number"),
        "file": _("The file"),
        "body": _("What was sent"),
        "slug": "The slug",
        "overlap": "The number of raters for each task",
        "candidates_per_task": "The number of candidates for each prompt",
        "lease_seconds": "The time that a task is held",
        "edit_seconds": "The time to change a ranking",
        "gold_rate": "The share of gold tasks",
        "qualification_accuracy": "The share of right pairs",
        "base_url": "The server's address",
        "api_key_variable": "The key's variable",
        "split": "The shares",
        "addresses": "The addresses",
        "min_rankings": "The number of rankings that a prompt must have",
        "lr": "The learning rate (lr)",
    }
    parts = field.split(".")
    if parts[-1] in known:
        return known[parts[-1]]
    if parts[0] in (
        "ranks",
        "axes",
        "flags",
        "rationale",
    ):  # what follows is an id, or a name of theirs
        return known[parts[0]]
    return parts[-1].replace("_", " ").replace("-", " ").capitalize()


def tell(error: PlackettError) -> str:
    """The error's sentence, for people."""
    return tell_of(error.field, error.message)


def tell_of(field: str | None, message: str) -> str:
    """A sentence of a field and of what is wrong with it; the message itself where it is a sentence."""
    said = gettext(message)
    if not field or not said[:1].islower():
        return said
    sentence = f"{name_field(field)} {said}"
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."


def is_wrong(error: PlackettError | None, name: str) -> bool:
    """Whether an error is about the input of this name."""
    return error is not None and error.field is not None and input_of(error.field) == name
