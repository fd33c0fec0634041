"""Our own assets, and the installed libraries of the browser's, each by its one known name."""

from fastapi import FastAPI
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.errors import NotFound
from app.settings import Settings
from app.web.assets import STATIC, VENDOR

FOR_EVER = "public, max-age=31536000, immutable"


class HashedFiles(StaticFiles):
    """Static files whose address carries their hash: browsers may keep those for ever."""

    def file_response(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
        """The file, with how long it may be kept."""
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        scope: Scope = args[2] if len(args) > 2 else kwargs["scope"]  # type: ignore[assignment]
        kept = FOR_EVER if b"v=" in scope.get("query_string", b"") else "no-cache"
        response.headers["cache-control"] = kept
        return response


def mount(app: FastAPI, settings: Settings) -> None:
    """Serve /static from the checkout and /vendor from the installed packages."""
    app.mount("/static", HashedFiles(directory=STATIC), name="static")

    @app.get("/vendor/{name}", include_in_schema=False)
    async def vendor(name: str) -> FileResponse:
        file = settings.node_modules / VENDOR[name] if name in VENDOR else None
        if file is None or not file.is_file():
            raise NotFound(
                f"The browser library {name} is not installed: run `npm ci` in the checkout",
                field=name,
            )
        return FileResponse(file, headers={"cache-control": "public, max-age=86400"})
