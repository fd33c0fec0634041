"""From an entry of the registry to something that can be asked."""

from app.generation.backends.base import Backend
from app.generation.backends.local import LocalBackend
from app.generation.backends.openai import OpenAIBackend
from app.policies.models import Backend as BackendKind
from app.policies.models import Policy


def open_backend(policy: Policy, *, timeout: float) -> Backend:
    """The policy's back end; a server has so many seconds for an answer."""
    if policy.backend is BackendKind.OPENAI:
        return OpenAIBackend(
            policy.base_url or "",
            policy.model,
            api_key_variable=policy.api_key_variable,
            timeout=timeout,
        )
    return LocalBackend(policy.model)
