"""From an entry of the registry to something that can be asked."""

from app.generation.backends.base import Backend
from app.generation.backends.local import LocalBackend
from app.generation.backends.openai import OpenAIBackend
from app.policies.models import Backend as BackendKind
from app.policies.models import Policy
from app.settings import Settings


def open_backend(policy: Policy, settings: Settings) -> Backend:
    """The policy's back end. The settings say where a server may be and how long it may take."""
    if policy.backend is BackendKind.OPENAI:
        return OpenAIBackend(
            policy.base_url or "",
            policy.model,
            api_key_variable=policy.api_key_variable,
            timeout=settings.generation_timeout,
            private_hosts=settings.policy_private_hosts,
        )
    return LocalBackend(policy.model)
