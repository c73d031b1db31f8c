"""What decides on a batch: one question after the other, each by a name."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from valetkey.messages import Message
from valetkey.refusals import Code, Refusal
from valetkey.terms import AnyTerms, Download, Encryption, Multipart, Parts, Put, Upload
from worker.core.tenancy import Bucket, Policy, Tenant

Limit = int | str | list[str] | None
_TERMS: tuple[type[AnyTerms], ...] = (Download, Upload, Put, Multipart, Parts)


@dataclass(frozen=True, slots=True)
class Case:
    """A batch, and what it is held against: the policy for the bucket profile that it names."""

    message: Message
    tenant: Tenant
    bucket: Bucket
    policy: Policy
    now: datetime


class Rule(NamedTuple):
    """One question about a batch, by the field of the message that it is about.

    refused answers it; found says what the message has there, and nothing where it has nothing.
    """

    name: str
    refused: Callable[[Case], Refusal | None]
    found: Callable[[Case], str]


def first(rules: Iterable[Rule], case: Case) -> Refusal | None:
    """Refuse a batch for the first rule that it breaks."""
    for rule in rules:
        refusal = rule.refused(case)
        if refusal is not None:
            return refusal
    return None


def refuse(code: Code, field: str, message: str, limit: Limit = None) -> Refusal:
    """Refuse a batch for one field; limit is what would not have been refused."""
    return Refusal(code=code, field=field, message=message, limit=limit)


def about(name: str, refused: Callable[[Any, Policy], Refusal | None]) -> Rule:
    """Make a rule about one field of the terms, which only the kinds that have it are asked."""
    having = {terms for terms in _TERMS if name in terms.model_fields}

    def in_case(case: Case) -> Refusal | None:
        terms = case.message.grant
        return refused(terms, case.policy) if type(terms) in having else None

    return Rule(f"grant.{name}", in_case, lambda case: shown(case.message.grant, name))


def shown(terms: AnyTerms, name: str) -> str:
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
