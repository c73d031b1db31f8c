"""What decides on a batch: one question after the other, each by a name."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import AnyTerms, Download, Encryption, Multipart, Parts, Put, Upload
from worker.core.tenants.config import Bucket, Policy, Tenant

Limit = int | str | list[str] | None
_TERMS: tuple[type[AnyTerms], ...] = (Download, Upload, Put, Multipart, Parts)


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """Terms, and what they are held against: the policy for the bucket profile that they name."""

    terms: AnyTerms
    bucket: Bucket
    policy: Policy


@dataclass(frozen=True, slots=True)
class RequestContext(PolicyContext):
    """A batch with all that its header says, and whose it is."""

    message: ChunkMessage
    tenant: Tenant
    now: datetime


C_contra = TypeVar("C_contra", bound=PolicyContext, contravariant=True)


class Rule(NamedTuple, Generic[C_contra]):
    """One question about a batch or its terms, by the field of the message that it is about.

    refused answers it; found says what the message has there, and nothing where it has nothing.
    """

    name: str
    refused: Callable[[C_contra], Refusal | None]
    found: Callable[[C_contra], str]


def first_refusal(rules: Iterable[Rule[C_contra]], case: C_contra) -> Refusal | None:
    """Refuse a batch for the first rule that it breaks."""
    for rule in rules:
        refusal = rule.refused(case)
        if refusal is not None:
            return refusal
    return None


def refuse(code: Code, field: str, message: str, limit: Limit = None) -> Refusal:
    """Refuse a batch for one field; limit is what would not have been refused."""
    return Refusal(code=code, field=field, message=message, limit=limit)


def field_rule(name: str, refused: Callable[[Any, Policy], Refusal | None]) -> Rule[PolicyContext]:
    """Make a rule about one field of the terms, which only the kinds that have it are asked."""
    having = {terms for terms in _TERMS if name in terms.model_fields}

    def in_case(case: PolicyContext) -> Refusal | None:
        return refused(case.terms, case.policy) if type(case.terms) in having else None

    return Rule(f"grant.{name}", in_case, lambda case: describe_field(case.terms, name))


def describe_field(terms: AnyTerms, name: str) -> str:
    """What the terms say in one field, in a word; nothing where they do not say it."""
    value = getattr(terms, name, None)
    match value:
        case None | False:
            return ""
        case True:
            return "yes"
        case int():
            return f"{value:,} bytes"
        case dict():
            return ", ".join(value)
        case Encryption():
            return value.algorithm
    return str(value)
