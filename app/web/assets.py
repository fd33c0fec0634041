"""Addresses of what a page loads: our own files by hash, bundles, the browser's libraries."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from app.settings import CHECKOUT

STATIC = CHECKOUT / "static"
# The browser's libraries: what a page asks for, and where npm puts it.
VENDOR = {
    "htmx.js": "htmx.org/dist/htmx.min.js",
    "uplot.js": "uplot/dist/uPlot.iife.min.js",
    "uplot.css": "uplot/dist/uPlot.min.css",
}


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@lru_cache
def asset_url(name: str) -> str:
    """The address of a file in static/, with its hash, so that browsers may keep it for ever."""
    return f"/static/{name}?v={_hash(STATIC / name)[:12]}"


def vendor_url(name: str) -> str:
    """The address of an installed library of the browser's."""
    if name not in VENDOR:
        raise KeyError(f"{name} is not one of {sorted(VENDOR)}")
    return f"/vendor/{name}"


@lru_cache
def bundle_url(name: str) -> str:
    """The address of a page's script or style ("ranking.js"): its bundle, or the files it is made of."""
    folder, kind = name.split(".")
    return asset_url(f"built/{name}" if is_bundled(name, STATIC) else f"{folder}/main.{kind}")


def is_bundled(name: str, static: Path) -> bool:
    """Whether static/bundle.mjs has made this bundle, and none of its sources has changed since."""
    try:
        sources = json.loads((static / "built" / f"{name}.json").read_text())
        return all(_hash(static / source) == digest for source, digest in sources.items())
    except FileNotFoundError:
        return False
