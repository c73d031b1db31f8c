"""The specification of a kind of grant: everything that the service knows of it, in one value."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from valetkey.wire.messages import Item
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import AnyTerms, Terms
from worker.core.kinds.item_checks import ItemCheck
from worker.core.kinds.rules import PolicyContext, Rule
from worker.core.quotas.cost import Cost
from worker.core.signing.context import ItemSigner, SigningContext
from worker.core.tenants.config import Bucket, Policy

T = TypeVar("T", bound=Terms)


class RequiredField(NamedTuple):
    """A field that every item must have, and the code that refuses an item without it."""

    name: str
    code: Code


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantKind(Generic[T]):
    """One kind of grant.

    terms_class: the wire class of its terms, whose `kind` names it.
    rules: the policy rules of its terms, in the order in which they apply.
    item_checks: the fields that its items may have beside `key`, each with its check, in order.
    required_field: the field that its items must have.
    reserved_cost: the cost of a number of items before they are known.
    issued_cost: the cost of the issued items.
    make_signer: prepares to sign the items of a chunk.
    s3_actions: the S3 actions that using its grants requires.
    adapt_to_provider: replaces terms that the bucket's provider does not support, or refuses them.
    max_items: the largest batch; None leaves that to the policy.
    has_manifest: whether the service can write its results to a manifest.
    allows_manifest_upload: whether a policy that permits this kind permits a manifest as well.
    """

    terms_class: type[T]
    rules: tuple[Rule[PolicyContext], ...]
    reserved_cost: Callable[[T, int], Cost]
    issued_cost: Callable[[T, Collection[Item]], Cost]
    make_signer: Callable[[T, SigningContext], ItemSigner]
    s3_actions: frozenset[str]
    item_checks: Mapping[str, ItemCheck]
    required_field: RequiredField | None = None
    adapt_to_provider: Callable[[T, Bucket, Policy], AnyTerms | Refusal] | None = None
    max_items: int | None = None
    has_manifest: bool = False
    allows_manifest_upload: bool = False
