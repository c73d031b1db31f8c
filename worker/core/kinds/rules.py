"""Policy rules: named checks of one field of a request each, and those that kinds share."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

from valetkey.units import describe_size
from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import AnyTerms, Encryption, PolicyKind
from worker.core.tenants.config import Bucket, Policy, Tenant

Limit = int | str | list[str] | None


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """Terms, and the bucket profile and policy that they are checked against."""

    terms: AnyTerms
    bucket: Bucket
    policy: Policy


@dataclass(frozen=True, slots=True)
class BatchContext(PolicyContext):
    """A batch, requested or committed: its tenant, total and callback as well as its terms."""

    tenant: Tenant
    total: int
    callback: str | None


@dataclass(frozen=True, slots=True)
class RequestContext(BatchContext):
    """A whole request: its message as well as what a committed batch has."""

    message: ChunkMessage
    now: datetime


C_contra = TypeVar("C_contra", bound=PolicyContext, contravariant=True)


class Rule(NamedTuple, Generic[C_contra]):
    """One check of a request, named after the field of the message that it looks at.

    check returns a refusal or None. describe returns the field's value for explanations, or an
    empty string if the request does not have the field.
    """

    name: str
    check: Callable[[C_contra], Refusal | None]
    describe: Callable[[C_contra], str]


def first_refusal(rules: Iterable[Rule[C_contra]], context: C_contra) -> Refusal | None:
    """Return the refusal of the first rule that the request breaks."""
    for rule in rules:
        refusal = rule.check(context)
        if refusal is not None:
            return refusal
    return None


def refuse(code: Code, field: str, message: str, limit: Limit = None) -> Refusal:
    """Refuse one field of a request; limit is what would be accepted."""
    return Refusal(code=code, field=field, message=message, limit=limit)


def make_field_rule(
    name: str, check: Callable[[Any, Policy], Refusal | None]
) -> Rule[PolicyContext]:
    """Make a rule for a field of the terms from a check of the terms against the policy."""
    return Rule(
        f"grant.{name}",
        lambda context: check(context.terms, context.policy),
        lambda context: describe_field_value(context.terms, name),
    )


def make_kind_rule(kind: PolicyKind) -> Rule[PolicyContext]:
    """Return the rule that refuses a kind that the policy does not allow."""

    def check(context: PolicyContext) -> Refusal | None:
        if kind in context.policy.kinds:
            return None
        text = f"the tenant's policy does not allow {kind} in this bucket profile"
        return refuse(Code.KIND_NOT_ALLOWED, "grant.kind", text, sorted(context.policy.kinds))

    return Rule("grant.kind", check, lambda context: context.terms.kind)


def _check_owner(context: PolicyContext) -> Refusal | None:
    if not getattr(context.terms, "check_owner", False) or context.bucket.owner:
        return None
    text = "the bucket profile does not name the account that owns the bucket"
    return refuse(Code.OWNER_UNKNOWN, "grant.check_owner", text)


OWNER_RULE = Rule[PolicyContext](
    "grant.check_owner",
    _check_owner,
    lambda context: describe_field_value(context.terms, "check_owner"),
)


def describe_field_value(terms: AnyTerms, name: str) -> str:
    """Describe the value of one field of the terms; an empty string if it is not set."""
    value = getattr(terms, name, None)
    match value:
        case None | False:
            return ""
        case True:
            return "yes"
        case int():
            return describe_size(value)
        case dict():
            return ", ".join(value)
        case Encryption():
            return value.algorithm
    return str(value)
