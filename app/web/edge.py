"""The edge of every route: no address, query or form gets in with text that the database cannot store.

Bodies of the API are checked by their own shapes (`app.inputs.Input`); what routes take as plain words,
names and slugs is checked here, once for all of them.
"""

from fastapi import Request
from starlette.datastructures import UploadFile

from app.errors import InvalidInput, NotFound
from app.inputs import find_unstorable
from app.web.csrf import is_form
from app.web.language import gettext


async def refuse_unstorable(request: Request) -> None:
    """Raise NotFound for such an address, and InvalidInput, naming the field, for a query or a form."""
    if any(find_unstorable(str(part)) for part in request.path_params.values()):
        raise NotFound(f"No page or call has the address {request.url.path}")
    given: list[tuple[str, str | UploadFile]] = []
    if request.url.path.startswith("/api/"):
        given += request.query_params.multi_items()
    elif is_form(request):  # the search of a page looks for what is left of its words
        given += (await request.form()).multi_items()
    for name, value in given:
        text = value.filename or "" if isinstance(value, UploadFile) else value
        reason = find_unstorable(name) or find_unstorable(text)
        if reason:
            raise InvalidInput(gettext(reason), field=name)
