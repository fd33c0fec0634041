"""One typed settings object, read from environment variables."""

import re
from functools import lru_cache
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

# Parted by commas in the environment.
Words = Annotated[tuple[str, ...], NoDecode]
CHECKOUT = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """Every setting, its environment variable (`PLACKETT_` + its name, in capitals) and default."""

    model_config = SettingsConfigDict(
        env_prefix="PLACKETT_",
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,  # DATABASE_URL holds a password
    )

    database_url: str | None = Field(
        default=None,
        validation_alias="DATABASE_URL",
        description="A PostgreSQL server; unset, the embedded one in the data directory is used.",
    )
    data_dir: Path = Field(
        default=Path(".plackett"),
        description="Where the embedded database, exports, runs and local models live.",
    )
    base_url: str = Field(
        default="http://127.0.0.1:8000",
        description="The address that links in messages start with.",
    )
    root_path: str = Field(
        default="",
        description="The path under which a proxy shows the application (/plackett); links in messages "
        "get it too. A trusted proxy may say it instead (X-Forwarded-Prefix).",
    )
    secure_cookies: bool = Field(
        default=False, description="Send cookies over HTTPS only; set it behind a TLS proxy."
    )
    trusted_proxies: Words = Field(
        default=(),
        description="Addresses and networks of the proxies in front, parted by commas; only what these "
        "tell of whom they forward for (X-Forwarded-For, X-Forwarded-Proto) is believed.",
    )
    session_days: int = Field(default=14, ge=1, description="How long a sign-in lasts, in days.")
    max_request_bytes: int = Field(
        default=64 * 1024 * 1024, ge=1024, description="The largest request body, in bytes."
    )
    max_import_bytes: int = Field(
        default=4 * 1024**3,
        ge=1024,
        description="The largest file that the command line imports, in bytes once it is unpacked.",
    )
    max_import_rows: int = Field(
        default=1_000_000, ge=1, description="The most rows of an imported file."
    )
    max_prompt_bytes: int = Field(
        default=256 * 1024,
        ge=1024,
        description="The largest prompt or candidate, in bytes of UTF-8.",
    )
    pool_size: int = Field(default=10, ge=1, description="Database connections for each process.")
    statement_seconds: float = Field(
        default=20.0,
        gt=0,
        description="The longest that one statement of a request may take in the database, in seconds.",
    )
    request_seconds: float = Field(
        default=60.0,
        gt=0,
        description="The longest that a request may take from its last byte to the answer, in seconds.",
    )
    generation_batch: int = Field(
        default=8, ge=1, description="How many prompts a worker takes at a time."
    )
    generation_attempts: int = Field(
        default=5, ge=1, description="How often a prompt is tried before it is marked failed."
    )
    generation_timeout: float = Field(
        default=120.0, gt=0, description="Seconds to wait for one answer of a model's server."
    )
    policy_private_hosts: Words = Field(
        default=(),
        description="Names, addresses and networks that are not public and where policies' servers may be "
        "nonetheless, parted by commas (localhost,10.1.0.0/16).",
    )
    worker_silence_seconds: float = Field(
        default=30.0,
        ge=3,
        description="A worker that gives no sign of life for so long is taken for dead, and its jobs go on "
        "elsewhere.",
    )
    trainer_device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where training runs of the worker compute."
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="How log lines are written to stderr."
    )
    node_modules: Path = Field(
        default=CHECKOUT / "node_modules",
        description="Where the browser's libraries are installed (npm).",
    )

    @field_validator("data_dir", "node_modules")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()

    @field_validator("root_path")
    @classmethod
    def _a_path(cls, value: str) -> str:
        value = value.strip().rstrip("/")
        if value and not re.fullmatch(r"(?:/[A-Za-z0-9._~-]+)+", value):
            raise ValueError(
                "is a path like /plackett, of letters, digits, dots, dashes and underscores"
            )
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            try:
                ip_network(each, strict=False)
            except ValueError:
                raise ValueError(f"{each!r} is neither an address nor a network") from None
        return value

    @field_validator("policy_private_hosts", "trusted_proxies", mode="before")
    @classmethod
    def _parted(cls, value: object) -> object:
        return (
            tuple(filter(None, map(str.strip, value.split(","))))
            if isinstance(value, str)
            else value
        )

    @field_validator("database_url")
    @classmethod
    def _postgresql(cls, value: str | None) -> str | None:
        if not value:
            return None
        if not value.startswith(("postgresql://", "postgres://", "postgresql+psycopg://")):
            raise ValueError(
                "DATABASE_URL must start with postgresql:// (no other database is supported)"
            )
        try:
            readable = urlsplit(value).port != 0
        except ValueError:
            readable = False
        if not readable:  # said here, since whoever reads it next quotes all of it in a traceback
            raise ValueError(
                "is no address that can be read (in a password, / : @ are written as %2F %3A %40)"
            )
        return value

    @property
    def public_address(self) -> str:
        """What links in messages start with: the base URL, with the path that we stand under."""
        base = self.base_url.rstrip("/")
        return base if base.endswith(self.root_path) else base + self.root_path

    @property
    def exports_dir(self) -> Path:
        """Where the files of exports are kept, a directory for each."""
        return self.data_dir / "exports"

    @property
    def runs_dir(self) -> Path:
        """Where training runs write, a directory for each."""
        return self.data_dir / "runs"

    @property
    def figures_dir(self) -> Path:
        """Where the processes on this folder count what `/metrics` tells."""
        return self.data_dir / "figures"

    @property
    def models_dir(self) -> Path:
        """Where models that we make ourselves (the demo's) are kept."""
        return self.data_dir / "models"


@lru_cache
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()
