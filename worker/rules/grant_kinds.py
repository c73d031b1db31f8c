"""The kinds of grants: everything that the service knows of each, in one value."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from valetkey.signing.response_headers import GRAMMARS
from valetkey.signing.signing_context import StartedUpload, plan_parts
from valetkey.wire.messages import Item
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import (
    MAX_PARTS,
    AnyTerms,
    Download,
    Multipart,
    ObjectSize,
    Parts,
    Put,
    Terms,
    Upload,
)
from worker.rules.policy_rules import (
    OWNER_RULE,
    STORAGE_RULES,
    STORE_ACTIONS,
    ItemCheck,
    PolicyContext,
    Rule,
    check_checksum_format,
    check_content_type,
    check_form_content_type,
    check_size,
    check_version_id,
    make_field_rule,
    make_kind_rule,
    refuse,
    refuse_filename,
)
from worker.rules.quota_rules import NO_COST, Cost
from worker.rules.redirects import is_allowed_redirect
from worker.rules.tenant_config import Bucket, Policy

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
    cost: the cost of a number of items, given the bytes that they may store together.
    s3_actions: the S3 actions that using its grants requires.
    adapt_to_provider: replaces terms that the bucket's provider does not support, or refuses them.
    max_items: the largest batch; None leaves that to the policy.
    has_manifest: whether the service can write its results to a manifest.
    allows_manifest_upload: whether a policy that permits this kind permits a manifest as well.
    """

    terms_class: type[T]
    rules: tuple[Rule[PolicyContext], ...]
    cost: Callable[[int, int], Cost]
    s3_actions: frozenset[str]
    item_checks: Mapping[str, ItemCheck]
    required_field: RequiredField | None = None
    adapt_to_provider: Callable[[T, Bucket, Policy], AnyTerms | Refusal] | None = None
    max_items: int | None = None
    has_manifest: bool = False
    allows_manifest_upload: bool = False

    @property
    def is_charged_by_item(self) -> bool:
        """True if each item is charged at its own size, and not at that of the terms."""
        return self.required_field is not None and self.required_field.name == "size"


def _storage_cost(count: int, size: int) -> Cost:
    return Cost(grants=count, upload_bytes=size)


_PLAIN_SETS_NO_HEADER = "a plain link sets no response header: remove this or plain"


def _check_filename(terms: Download, _: Policy) -> Refusal | None:
    return None if terms.filename is None else refuse_filename(terms.filename, "grant.filename")


def _check_inline(terms: Download, policy: Policy) -> Refusal | None:
    if not terms.inline or terms.content_type in policy.inline:
        return None
    text = "the policy allows only these content types to be shown instead of saved"
    return refuse(Code.INLINE_NOT_ALLOWED, "grant.inline", text, list(policy.inline))


def _check_plain(terms: Download, policy: Policy) -> Refusal | None:
    if not terms.plain:
        return None
    if not policy.plain:
        text = "the tenant's policy does not allow links without response headers and grant id"
        return refuse(Code.PLAIN_NOT_ALLOWED, "grant.plain", text)
    for name in ("filename", "content_type", "inline", *GRAMMARS):
        if getattr(terms, name) not in {None, False}:
            return refuse(Code.OVERRIDE_NOT_ALLOWED, f"grant.{name}", _PLAIN_SETS_NO_HEADER)
    return None


def _check_item_filename(item: Item, terms: Download, field: str) -> Refusal | None:
    if terms.plain:
        return refuse(Code.OVERRIDE_NOT_ALLOWED, field, _PLAIN_SETS_NO_HEADER)
    return refuse_filename(item.filename or "", field)


def _override_rule(name: str) -> Rule[PolicyContext]:
    grammar = GRAMMARS[name]

    def check(terms: Download, policy: Policy) -> Refusal | None:
        value = getattr(terms, name)
        if value is None:
            return None
        if name not in policy.overrides:
            text = "the tenant's policy does not allow this response header to be set"
            return refuse(Code.OVERRIDE_NOT_ALLOWED, f"grant.{name}", text, list(policy.overrides))
        if not grammar.is_valid(value):
            text = f"the value of this response header is {grammar.description}"
            limit = list(grammar.values) or None
            return refuse(Code.OVERRIDE_NOT_ALLOWED, f"grant.{name}", text, limit)
        return None

    return make_field_rule(name, check)


DOWNLOAD = GrantKind(
    terms_class=Download,
    rules=(
        make_kind_rule("download"),
        OWNER_RULE,
        make_field_rule("plain", _check_plain),
        make_field_rule("filename", _check_filename),
        make_field_rule("content_type", check_content_type),
        make_field_rule("inline", _check_inline),
        *map(_override_rule, GRAMMARS),
    ),
    cost=lambda count, _bytes: Cost(grants=count, download_grants=count),
    s3_actions=frozenset({"s3:GetObject", "s3:GetObjectVersion"}),
    item_checks={"filename": _check_item_filename, "version_id": check_version_id},
    has_manifest=True,
)


class PutForForm(Put):
    """The put that replaces a form: it keeps the form's min_size, which a requested put has not."""

    min_size: ObjectSize = 0


def _adapt_form_to_provider(
    terms: Upload, bucket: Bucket, policy: Policy
) -> Upload | Put | Refusal:
    """Turn a form into a PUT of each item's exact size if the provider takes no forms.

    The form is refused if the policy does not allow put, or if it asks for what only a form can do
    (Cloudflare: R2 S3 API compatibility, PostObject).
    """
    if bucket.post:
        return terms
    if "put" not in policy.kinds:
        text = "this storage takes no forms, and the policy does not allow put instead"
        return refuse(Code.KIND_NOT_SUPPORTED, "grant.kind", text)
    if terms.success_status or terms.success_redirect or terms.content_type.endswith("/*"):
        text = (
            "this storage takes no forms, and a put has no success_status, success_redirect"
            " or content type family"
        )
        return refuse(Code.KIND_NOT_SUPPORTED, "grant.kind", text, "put")
    form_only = {"kind", "success_status", "success_redirect"}
    return PutForForm(**terms.model_dump(exclude=form_only), overwrite=True)


def _check_redirect(terms: Upload, policy: Policy) -> Refusal | None:
    redirect = terms.success_redirect
    if redirect is None or is_allowed_redirect(redirect, policy.redirects):
        return None
    text = (
        "a redirect is an https:// URL of ASCII characters with the host and port, and the path or"
        " a path below it, of one of the policy's redirects; it has no user, fragment, empty or dot"
        " segment, or ${filename}"
    )
    allowed = list(policy.redirects)
    return refuse(Code.REDIRECT_NOT_ALLOWED, "grant.success_redirect", text, allowed)


UPLOAD = GrantKind(
    terms_class=Upload,
    rules=(
        make_kind_rule("upload"),
        make_field_rule("content_type", check_form_content_type),
        *STORAGE_RULES,
        make_field_rule("success_redirect", _check_redirect),
    ),
    cost=_storage_cost,
    s3_actions=STORE_ACTIONS,
    adapt_to_provider=_adapt_form_to_provider,
    item_checks={"size": check_size, "checksum": check_checksum_format},
    has_manifest=True,
    allows_manifest_upload=True,
)


def _check_overwrite(terms: Put, policy: Policy) -> Refusal | None:
    if not terms.overwrite or policy.overwrite:
        return None
    text = "the tenant's policy does not allow a put to replace an object"
    return refuse(Code.OVERWRITE_NOT_ALLOWED, "grant.overwrite", text)


def _adapt_put_to_provider(terms: Put, bucket: Bucket, _: Policy) -> Put | Refusal:
    if terms.overwrite or bucket.conditional_writes:
        return terms
    text = "this storage replaces existing objects: only a put that may overwrite is possible"
    return refuse(Code.KIND_NOT_SUPPORTED, "grant.overwrite", text, "true")


PUT = GrantKind(
    terms_class=Put,
    rules=(
        make_kind_rule("put"),
        OWNER_RULE,
        make_field_rule("content_type", check_content_type),
        *STORAGE_RULES,
        make_field_rule("overwrite", _check_overwrite),
    ),
    cost=_storage_cost,
    s3_actions=STORE_ACTIONS,
    adapt_to_provider=_adapt_put_to_provider,
    item_checks={"size": check_size, "checksum": check_checksum_format},
    required_field=RequiredField("size", Code.SIZE_REQUIRED),
    has_manifest=True,
    allows_manifest_upload=True,
)


MAX_MULTIPART_ITEMS = 50  # each item is a call to storage before anything is committed
_TOO_MANY_PARTS = "a file of this size has more than 10,000 parts of this part_size"


def _check_part_size(terms: Multipart, _: Policy) -> Refusal | None:
    if plan_parts(terms.max_size, terms.part_size) is not None:
        return None
    return refuse(Code.PART_INVALID, "grant.part_size", _TOO_MANY_PARTS, MAX_PARTS)


def _check_part_count(item: Item, terms: Multipart, field: str) -> Refusal | None:
    refusal = check_size(item, terms, field)
    if refusal is not None or plan_parts(item.size or 0, terms.part_size) is not None:
        return refusal
    return refuse(Code.PART_INVALID, field, _TOO_MANY_PARTS, MAX_PARTS)


MULTIPART = GrantKind(
    terms_class=Multipart,
    rules=(
        make_kind_rule("multipart"),
        make_field_rule("content_type", check_content_type),
        *STORAGE_RULES,
        make_field_rule("part_size", _check_part_size),
    ),
    cost=_storage_cost,
    s3_actions=STORE_ACTIONS | {"s3:AbortMultipartUpload"},
    item_checks={"size": _check_part_count},
    required_field=RequiredField("size", Code.SIZE_REQUIRED),
    max_items=MAX_MULTIPART_ITEMS,
)


class ContinuedUpload(Protocol):
    """The multipart upload whose parts a request asks for."""

    @property
    def object_key(self) -> str:
        """The key of the object that the upload creates."""

    @property
    def upload(self) -> StartedUpload:
        """The upload itself."""


def part_refusal(item: Item, continued_upload: ContinuedUpload, field: str) -> Refusal | None:
    """Refuse an item that names another object, or a part that the upload does not have."""
    if item.key != continued_upload.object_key:
        return refuse(Code.PART_INVALID, f"{field}.key", "the upload is of another object key")
    count = continued_upload.upload.plan.part_count
    if item.part is not None and item.part > count:
        text = "the upload does not have that many parts"
        field = f"{field}.part"
        return refuse(Code.PART_INVALID, field, text, count)
    return None


PARTS = GrantKind(
    terms_class=Parts,
    # A tenant that may no longer start multipart uploads may not continue one either.
    rules=(make_kind_rule("multipart"),),
    # The multipart grant charged for the whole object when it was issued.
    cost=lambda _count, _bytes: NO_COST,
    s3_actions=frozenset({"s3:PutObject"}),
    item_checks={"part": lambda _item, _terms, _field: None},  # parsing has checked it
    required_field=RequiredField("part", Code.PART_INVALID),
)


_ALL_KINDS: tuple[GrantKind[Any], ...] = (DOWNLOAD, UPLOAD, PUT, MULTIPART, PARTS)

KINDS: Mapping[str, GrantKind[Any]] = {
    kind.terms_class.model_fields["kind"].default: kind for kind in _ALL_KINDS
}
"""The kinds by name, in the order in which messages list them."""

ALL_S3_ACTIONS = tuple(sorted(frozenset().union(*(kind.s3_actions for kind in _ALL_KINDS))))
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
    # On a pydantic model, getattr takes a microsecond to find out that a field is missing.
    return grant_kind(terms).cost(count, count * vars(terms).get("max_size", 0))


def issued_cost(terms: AnyTerms, items: Collection[Item]) -> Cost:
    """Return the cost of issued items: of forms at the largest size, of others at their own.

    A form takes any size up to max_size, whatever size the item names.
    """
    kind = grant_kind(terms)
    if not kind.is_charged_by_item:
        return reserved_cost(terms, len(items))
    return kind.cost(len(items), sum(item.size or 0 for item in items))
