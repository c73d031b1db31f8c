"""Checks single items against their kind's specification and the tenant's policy."""

from collections.abc import Callable

from valetkey.wire.messages import Item
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import AnyTerms
from worker.core.kinds.parts import ContinuedUpload, part_refusal
from worker.core.kinds.registry import grant_kind
from worker.core.signing.forms import FILENAME_VARIABLE
from worker.core.signing.object_keys import is_simple_key, key_refusal, printable_key
from worker.core.tenants.config import Policy

_ITEM_FIELDS = tuple(Item.model_fields)


def simple_item_check(terms: AnyTerms, policy: Policy) -> Callable[[Item], bool]:
    """Return a predicate: true for items with a simple key and no other field, which need no check.

    Nearly all items are like that, and the full checks would take as long as signing.
    """
    if grant_kind(terms).required_field is not None:
        return lambda _item: False
    prefixes = policy.prefixes

    def is_simple(item: Item) -> bool:
        has_more_fields = len(item.model_fields_set) > 1
        return not has_more_fields and is_simple_key(item.key) and item.key.startswith(prefixes)

    return is_simple


def item_refusal(
    item: Item,
    terms: AnyTerms,
    policy: Policy,
    field: str,
    continued_upload: ContinuedUpload | None = None,
) -> Refusal | None:
    """Refuse an item for the first check that it fails.

    field is the item's path in the message, continued_upload the upload whose parts are requested.
    """
    refusal = reissue_item_refusal(item, terms, policy, field)
    for name, check in grant_kind(terms).item_checks.items():
        if refusal is None and getattr(item, name) is not None:
            refusal = check(item, terms, f"{field}.{name}")
    if refusal is None and continued_upload is not None:
        refusal = part_refusal(item, continued_upload, field)
    return refusal and refusal.model_copy(update={"key": printable_key(item.key)})


def reissue_item_refusal(item: Item, terms: AnyTerms, policy: Policy, field: str) -> Refusal | None:
    """Refuse an item that was issued before, if today's policy or terms do not allow it.

    The checks of its other fields do not depend on the policy. terms may be of another kind now.
    """
    refusal = item_key_refusal(item, terms, policy, f"{field}.key")
    return refusal or shape_refusal(item, terms, field)


def item_key_refusal(item: Item, terms: AnyTerms, policy: Policy, field: str) -> Refusal | None:
    """Refuse an object key that is unsafe, or outside every prefix of the policy."""
    key = item.key
    if terms.kind == "upload" and policy.free_names and key.endswith(f"/{FILENAME_VARIABLE}"):
        # Storage replaces the variable by the client's own filename, and the policy allows that.
        key = key.removesuffix(FILENAME_VARIABLE) + "name"
    return key_refusal(key, policy.prefixes, field)


def shape_refusal(item: Item, terms: AnyTerms, field: str) -> Refusal | None:
    """Refuse fields that the kind's items do not have, and an item without its required field."""
    kind = grant_kind(terms)
    for name in _ITEM_FIELDS:  # in order, so that the same field is named every time
        is_allowed = name == "key" or name in kind.item_checks
        if not is_allowed and getattr(item, name) is not None:
            text = f"an item of the kind {terms.kind} has no such field"
            return Refusal(code=Code.UNKNOWN_FIELD, field=f"{field}.{name}", message=text)
    required = kind.required_field
    if required is not None and getattr(item, required.name) is None:
        text = f"every item of the kind {terms.kind} needs its {required.name}"
        return Refusal(code=required.code, field=f"{field}.{required.name}", message=text)
    return None
