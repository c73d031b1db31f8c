"""The registry of grant kinds, and functions that dispatch on a kind."""

from collections.abc import Collection, Mapping
from typing import Any

from valetkey.wire.messages import Item
from valetkey.wire.refusals import Refusal
from valetkey.wire.terms import AnyTerms
from worker.core.kinds.download import DOWNLOAD
from worker.core.kinds.multipart import MULTIPART
from worker.core.kinds.parts import PARTS
from worker.core.kinds.put import PUT
from worker.core.kinds.spec import GrantKind
from worker.core.kinds.upload import UPLOAD
from worker.core.quotas.cost import Cost
from worker.core.tenants.config import Bucket, Policy

_ALL: tuple[GrantKind[Any], ...] = (DOWNLOAD, UPLOAD, PUT, MULTIPART, PARTS)

KINDS: Mapping[str, GrantKind[Any]] = {
    kind.terms_class.model_fields["kind"].default: kind for kind in _ALL
}
"""The kinds by name, in the order in which messages list them."""

ALL_S3_ACTIONS = tuple(sorted(frozenset().union(*(kind.s3_actions for kind in _ALL))))
"""Every S3 action that using a grant may require."""


def grant_kind(terms: AnyTerms) -> GrantKind[Any]:
    """Return the specification of the kind of these terms."""
    return KINDS[terms.kind]


def adapt_terms_to_provider(terms: AnyTerms, bucket: Bucket, policy: Policy) -> AnyTerms | Refusal:
    """Return the terms adapted to the bucket's provider, or refuse those it does not support."""
    adapt = grant_kind(terms).adapt_to_provider
    return terms if adapt is None else adapt(terms, bucket, policy)


def reserved_cost(terms: AnyTerms, count: int) -> Cost:
    """Return the largest possible cost of a number of items, to be reserved before they arrive."""
    return grant_kind(terms).reserved_cost(terms, count)


def issued_cost(terms: AnyTerms, items: Collection[Item]) -> Cost:
    """Return the cost of issued items: of forms at the largest size, of others at their own."""
    return grant_kind(terms).issued_cost(terms, items)
