"""The description of one check."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from worker.core.tenants.config import Bucket
from worker.usecases.live_checks.findings import Outcome
from worker.usecases.live_checks.probe import Probe

GrantName = Literal["link", "put", "form", "multipart", "session"]
Condition = Callable[[Bucket], str]
"""Returns why a check does not apply to a bucket profile, or an empty text."""


def applies_always(_bucket: Bucket) -> str:
    """Return an empty text."""
    return ""


def needs_forms(bucket: Bucket) -> str:
    """Skip a check of forms if the profile says that storage takes none."""
    return "" if bucket.post else "the profile has post = false"


def needs_owner(bucket: Bucket) -> str:
    """Skip a check that needs the id of the account that owns the bucket."""
    return "" if bucket.owner else "the profile has no owner"


def needs_role(bucket: Bucket) -> str:
    """Skip a check of role sessions."""
    return "" if bucket.role_arn else "the profile has no role_arn"


class LiveCheck(NamedTuple):
    """One request that storage has to accept (a use), or to refuse (a misuse).

    name: unique among the checks of the same grant.
    act: sends it, after what it requires, and returns storage's response.
    needs: the use without which a refusal of this misuse proves nothing, as grant and name.
    condition: says for which bucket profiles it is not tried.
    """

    grant: GrantName
    name: str
    is_misuse: bool
    act: Callable[[Probe], Outcome]
    needs: tuple[GrantName, str] | None = None
    condition: Condition = applies_always
