"""Decides on the items of a chunk: issues or refuses each one, also when it is signed again.

A tenant may record only so much without a charge: refusals, and parts that are granted again.
Everything else in the audit log is bounded by quotas: it belongs to a grant that was charged.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self

from pydantic import BaseModel

from valetkey.signing.object_keys import is_simple_key, key_refusal, printable_key
from valetkey.signing.signers import SIGNERS
from valetkey.signing.signing_context import NO_UPLOAD, SigningContext, StartedUpload, Validity
from valetkey.signing.sigv4 import FILENAME_VARIABLE
from valetkey.units import describe_duration
from valetkey.wire.grant_ids import grant_id
from valetkey.wire.messages import ChunkMessage, Item
from valetkey.wire.refusals import Code, QuotaState, Refusal
from valetkey.wire.replies import Outcome
from valetkey.wire.terms import AnyTerms
from worker.rules.admission import BATCH_RULES, PROVIDER_RULE, apply_rules
from worker.rules.annotations import ANNOTATION_FIELDS, Annotations, with_refs
from worker.rules.fingerprints import recorded_terms
from worker.rules.grant_kinds import (
    ContinuedUpload,
    grant_kind,
    issued_cost,
    part_refusal,
)
from worker.rules.issued_grants import IssuedItem, issued_kind, storage_name
from worker.rules.policy_rules import BatchContext, PolicyContext, Rule, refuse
from worker.rules.quota_rules import NO_COST, Cost, resets_at
from worker.rules.tenant_config import Policy, Tenant, TenantConfig


class ChunkRequest(NamedTuple):
    """An authenticated message, its tenant, and the name of the key that signed it, if any.

    reissue_of is the id of the earlier grant whose object and terms the message has, if any.
    """

    message: ChunkMessage
    tenant: Tenant
    signing_key: str | None
    reissue_of: str | None = None


class GrantRow(NamedTuple):
    """One audit row: issued, with the digest of a signature, or refused, with a code."""

    item_number: int
    object_key: str
    code: str | None = None
    detail: dict[str, Any] | None = None
    digest: bytes | None = None


class UploadAttempt(NamedTuple):
    """One attempt to start the uploads of a chunk, recorded under its id before the first call.

    uploads are those that it started, by item number. uncertain are the items for which storage may
    have created another upload, whose id is unknown. It is looked for from cleanup_at on.
    """

    id: str
    uploads: Mapping[int, StartedUpload]
    uncertain: frozenset[int]
    cleanup_at: datetime


@dataclass(frozen=True, slots=True)
class ChunkDecision:
    """The decision on a chunk: its audit rows, and the results of its items in the same order.

    cost is the cost of its issued items, quotas are the tenant's quotas afterwards. attempt is the
    one that started its multipart uploads. If refusal is set, the whole chunk is refused, and
    validity.issued_at is the time of the refusal.
    """

    rows: Sequence[GrantRow]
    results: Sequence[dict[str, Any]]
    validity: Validity
    access_key: str | None = None
    refusal: Refusal | None = None
    cost: Cost = NO_COST
    quotas: Sequence[QuotaState] = ()
    attempt: UploadAttempt | None = None

    @property
    def issued(self) -> int:
        """The number of issued items."""
        return sum(row.code is None for row in self.rows)

    @property
    def digests(self) -> bytes:
        """The digests of the issued items' signatures, in order."""
        return b"".join(row.digest for row in self.rows if row.digest is not None)


@dataclass(frozen=True, slots=True)
class RecordedChunk:
    """A chunk as it was committed: enough to sign its grants again byte for byte.

    terms, total, callback and batch_texts are those of its batch.
    """

    batch_number: int
    batch_id: str
    chunk_number: int
    tenant_id: str
    terms: AnyTerms
    total: int
    callback: str | None
    rows: Sequence[GrantRow]
    validity: Validity
    access_key: str | None
    refusal: Refusal | None
    uploads: Mapping[int, StartedUpload]
    batch_texts: Mapping[str, str | None]
    annotations: Annotations

    def texts(self, item_number: int) -> dict[str, Any]:
        """Return the texts about an item, by their field.

        Its own take the place of the batch's, also if they were erased.
        """
        annotation = self.annotations.get(item_number)
        own = {} if annotation is None else annotation.own
        return {**dict.fromkeys(ANNOTATION_FIELDS), **self.batch_texts, **own}


def refuse_chunk(message: ChunkMessage, refusal: Refusal, now: datetime) -> ChunkDecision:
    """Refuse every item of a chunk for the same reason."""
    rows = [
        GrantRow(number, printable_key(item.key), str(refusal.code))
        for number, item in enumerate(message.items, message.first_item)
    ]
    validity = Validity(now.replace(microsecond=0), 0, "request")
    return ChunkDecision(rows, [], validity, refusal=refusal)


def recorded_item(row: GrantRow) -> Item:
    """Return the item of an audit row that was issued, without the texts about it."""
    fields = {name: value for name, value in (row.detail or {}).items() if name != "kind"}
    return Item.model_validate({"key": row.object_key, **fields})


def refused_item_result(refusal: Refusal, object_key: str) -> dict[str, Any]:
    """Return a refusal with an item's object key, as JSON values."""
    return refusal.model_copy(update={"key": object_key}).model_dump(mode="json", exclude_none=True)


class Reply(NamedTuple):
    """The reply to a message as JSON values, and what the service itself needs to know of it.

    issued and refused are numbers of items. expires_at is the time at which the first grant in it
    expires, None if it has none. parts are the replies in the reply to a bundle, else None.
    """

    values: dict[str, Any]
    issued: int = 0
    refused: int = 0
    expires_at: datetime | None = None
    parts: Sequence["Reply"] | None = None

    @classmethod
    def of(cls, model: BaseModel) -> Self:
        """Return a reply without items."""
        return cls(model.model_dump(mode="json", exclude_none=True))


def chunk_outcome(
    batch_id: str, chunk_number: int, decision: ChunkDecision, *, has_manifest: bool = False
) -> Reply:
    """Return the outcome of a chunk; with a manifest, it has counts instead of items."""
    header = Outcome(
        batch=batch_id,
        chunk=chunk_number,
        status="refused" if decision.refusal else "issued",
        refusal=decision.refusal,
        quotas=list(decision.quotas),
    )
    values = header.model_dump(mode="json", exclude_none=True)
    issued = 0 if decision.refusal else decision.issued
    refused = len(decision.rows) - issued
    if has_manifest:
        return Reply(values | {"issued": issued, "refused": refused}, issued, refused)
    expires_at = decision.validity.expires_at if issued else None
    return Reply(values | {"items": list(decision.results)}, issued, refused, expires_at)


def refused_outcome(
    batch_id: str, chunk_number: int, refusal: Refusal, quotas: Sequence[QuotaState] = ()
) -> Reply:
    """Return the outcome of a message without decided items."""
    return Reply.of(
        Outcome(
            batch=batch_id,
            chunk=chunk_number,
            status="refused",
            refusal=refusal,
            quotas=list(quotas),
        )
    )


MESSAGE_BYTES = 1_500
"""The bytes of a message in the database beside its terms and items, or of a cancellation."""

_ITEM_BYTES = 150  # beside the key and the reason
_TEXT_BYTES = 60  # of a text about an item: its salt, and its part of a row and of an index


class NotRecorded(Exception):
    """The tenant may record nothing more without a charge: roll the transaction back.

    decisions are those that would do so, by batch id.
    """

    def __init__(self, decisions: Mapping[str, ChunkDecision]) -> None:
        super().__init__(*decisions)
        self.decisions = decisions


def pays_for_records(paid: int, items: int) -> bool:
    """Return true if charged items, each with another one, are all items that are recorded.

    So a tenant whose requests are mostly granted is never limited.
    """
    return 2 * paid >= items


def uncharged_bytes(message: ChunkMessage, decision: ChunkDecision, paid: int) -> int:
    """Return the bytes that a decision records without a charge.

    paid is the number of its items that are charged.
    """
    rows = decision.rows
    if pays_for_records(paid, len(rows)):
        return 0
    terms = len(json.dumps(recorded_terms(message.grant)))
    texts = sum(len(row.object_key.encode()) + len(json.dumps(row.detail)) for row in rows)
    annotations = sum(
        _TEXT_BYTES + 2 * len(text.encode())  # in an index as well
        for item in message.items
        for name in ANNOTATION_FIELDS
        if (text := getattr(item, name)) is not None
    )
    return MESSAGE_BYTES + terms + _ITEM_BYTES * len(rows) + texts + annotations


def ceiling_refusal(limit: int, now: datetime) -> Refusal:
    """Refuse what would be recorded without a charge, when the day has no bytes left for it."""
    end = resets_at("day", now)
    quota = QuotaState(
        metric="uncharged_bytes", window="day", limit=limit, used=limit, resets_at=end
    )
    text = "refusals, repeated parts and unknown cancellations have filled what a day records"
    return Refusal(code=Code.QUOTA_EXCEEDED, field="", message=text, limit=limit, quota=quota)


_ITEM_FIELDS = tuple(name for name in Item.model_fields if name not in ANNOTATION_FIELDS)
_SIMPLE_FIELDS = frozenset({"key", *ANNOTATION_FIELDS})


def simple_item_check(terms: AnyTerms, policy: Policy) -> Callable[[Item], bool]:
    """Return a predicate: true for items with a simple key and no other field, which need no check.

    Nearly all items are like that, and the full checks would take as long as signing.
    """
    if grant_kind(terms).required_field is not None:
        return lambda _item: False
    prefixes = policy.prefixes

    def is_simple(item: Item) -> bool:
        fields = item.model_fields_set
        has_more_fields = len(fields) > 1 and not fields <= _SIMPLE_FIELDS
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
    key = item.key
    if terms.kind == "upload" and policy.free_names and key.endswith(f"/{FILENAME_VARIABLE}"):
        # Storage replaces the variable by the client's own filename, and the policy allows that.
        key = key.removesuffix(FILENAME_VARIABLE) + "name"
    refusal = key_refusal(key, policy.prefixes, f"{field}.key")
    return refusal or _shape_refusal(item, terms, field)


def _shape_refusal(item: Item, terms: AnyTerms, field: str) -> Refusal | None:
    """Refuse fields that the kind's items do not have, and an item without its required field."""
    kind = grant_kind(terms)
    for name in _ITEM_FIELDS:  # in order, so that the same field is named every time
        is_allowed = name == "key" or name in kind.item_checks
        if not is_allowed and getattr(item, name) is not None:
            text = f"an item of the kind {terms.kind} has no such field"
            return refuse(Code.UNKNOWN_FIELD, f"{field}.{name}", text)
    required = kind.required_field
    if required is not None and getattr(item, required.name) is None:
        text = f"every item of the kind {terms.kind} needs its {required.name}"
        return refuse(required.code, f"{field}.{required.name}", text)
    return None


StartResults = Mapping[int, StartedUpload | Refusal]
"""The multipart uploads that were started for a chunk, or storage's refusals, by item number."""

_ItemDecision = tuple[GrantRow, dict[str, Any]]


class ChunkDecider:
    """Decides on the items of admitted chunks that have equal terms and one signing context."""

    def __init__(self, admitted: PolicyContext, context: SigningContext) -> None:
        self._terms = admitted.terms
        self._policy = admitted.policy
        self._context = context
        self._sign = SIGNERS[admitted.terms.kind](admitted.terms, context)
        self._is_simple = simple_item_check(admitted.terms, admitted.policy)

    def decide(
        self,
        message: ChunkMessage,
        starts: StartResults | None = None,
        continued_upload: ContinuedUpload | None = None,
    ) -> ChunkDecision:
        """Decide on each item of a chunk; continued_upload has the requested parts."""
        terms, policy = self._terms, self._policy
        sign, is_simple, first_item = self._sign, self._is_simple, message.first_item
        only_upload = NO_UPLOAD if continued_upload is None else continued_upload.upload
        kind: dict[str, str] = {} if terms.kind == message.grant.kind else {"kind": terms.kind}

        def decide(number: int, item: Item) -> _ItemDecision:
            id_ = grant_id(message.batch, number)
            if is_simple(item):
                grant, digest = sign(id_, item, NO_UPLOAD)
                return GrantRow(number, item.key, None, None, digest), grant
            field = f"items[{number - first_item}]"
            refusal = item_refusal(item, terms, policy, field, continued_upload)
            if refusal is not None:
                return _refuse_item(number, item, refusal)
            upload = only_upload if starts is None else starts[number]
            if isinstance(upload, Refusal):
                return _refuse_item(number, item, upload)
            grant, digest = sign(id_, item, upload)
            return _issued_row(number, item, digest, kind), grant

        decisions = [decide(number, item) for number, item in enumerate(message.items, first_item)]
        rows, results = zip(*decisions, strict=True)
        results = with_refs(results, (item.ref for item in message.items))
        issued = [item for item, row in zip(message.items, rows, strict=True) if row.code is None]
        validity, access_key = self._context.validity, self._context.credentials.access_key
        cost = issued_cost(terms, issued)
        return ChunkDecision(rows, results, validity, access_key, cost=cost)


def _issued_row(number: int, item: Item, digest: bytes, kind: dict[str, str]) -> GrantRow:
    detail = kind | item.model_dump(mode="json", exclude=set(_SIMPLE_FIELDS), exclude_none=True)
    return GrantRow(number, item.key, None, detail or None, digest)


def _refuse_item(number: int, item: Item, refusal: Refusal) -> _ItemDecision:
    detail = refusal.model_dump(mode="json", exclude_none=True)
    row = GrantRow(number, printable_key(item.key), str(refusal.code), detail)
    return row, detail


def sign_again(
    recorded: RecordedChunk,
    admitted: BatchContext,
    context: SigningContext,
    continued_upload: StartedUpload | None,
) -> ChunkDecision:
    """Sign the issued items of a recorded chunk again; refused items keep their result.

    An item whose key is outside the prefixes of today's policy is refused; its row keeps the digest
    of the first signature. continued_upload is the multipart upload of the recorded parts, if any.
    """
    terms, policy = admitted.terms, admitted.policy
    sign = SIGNERS[terms.kind](terms, context)

    def decide(index: int, row: GrantRow) -> _ItemDecision:
        if row.code is not None:
            return row, row.detail or {}
        item = recorded_item(row)
        refusal = reissue_item_refusal(item, terms, policy, f"items[{index}]")
        if refusal is not None:
            values = refused_item_result(refusal, row.object_key)
            return row._replace(code=str(refusal.code)), values
        upload = continued_upload or recorded.uploads.get(row.item_number, NO_UPLOAD)
        grant, digest = sign(grant_id(recorded.batch_id, row.item_number), item, upload)
        return row._replace(digest=digest), grant

    decisions = [decide(index, row) for index, row in enumerate(recorded.rows)]
    rows, results = zip(*decisions, strict=True)
    refs = {number: texts.ref for number, texts in recorded.annotations.items()}
    results = with_refs(results, (refs.get(row.item_number) for row in rows))
    return ChunkDecision(rows, results, context.validity, context.credentials.access_key)


_PRUNED = refuse(
    Code.BATCH_CLOSED,
    "batch",
    "its rows were removed after the time for which they are kept: it is not signed again",
)


def admit_again(
    recorded: RecordedChunk, config: TenantConfig, now: datetime
) -> BatchContext | Refusal:
    """Return the tenant, terms and policy to sign a committed chunk with, or today's refusal."""
    context = reissue_context(recorded, config, now)
    return context if isinstance(context, Refusal) else apply_rules(reissue_rules(context), context)


def reissue_context(
    recorded: RecordedChunk, config: TenantConfig, now: datetime
) -> BatchContext | Refusal:
    """Find today's bucket profile and policy of a committed chunk, or refuse it without them.

    A chunk whose rows were removed by `audit prune` is refused.
    """
    if not recorded.rows:  # every chunk has items
        return _PRUNED
    access = config.find_access(recorded.tenant_id, recorded.terms.bucket)
    if access is None:
        text = "it was issued, but the tenant's policy no longer allows it"
        return refuse(Code.BUCKET_NOT_ALLOWED, "grant.bucket", text)
    kind, bucket = recorded.terms.kind, access.bucket
    if any(issued_kind(kind, row.detail) != kind for row in recorded.rows):
        # A form would allow more than the put that it became, and that was charged.
        bucket = replace(bucket, post=False)
    return BatchContext(
        terms=recorded.terms,
        bucket=bucket,
        policy=access.policy,
        tenant=access.tenant,
        total=recorded.total,
        callback=recorded.callback,
        validity=recorded.validity,
        now=now,
    )


def reissue_rules(context: BatchContext) -> Iterator[Rule[BatchContext]]:
    """Yield the rules for signing a chunk again, in the order in which they apply.

    These are the rules of its request that depend on the policy. The deadline belongs to the
    request, which met it, so it does not apply again. The rule for a manifest applies when the
    manifest is written.
    """
    yield from BATCH_RULES
    yield from grant_kind(context.terms).rules
    yield PROVIDER_RULE
    yield _REMAINING_RULE


def _check_remaining(context: BatchContext) -> Refusal | None:
    maximum = context.policy.max_expires_in
    if context.validity.remaining(context.now) <= timedelta(seconds=maximum):
        return None
    text = (
        "it is still valid for longer than the tenant's policy now allows: at most "
        f"{describe_duration(maximum)}"
    )
    return refuse(Code.EXPIRY_TOO_LONG, "grant.expires_in", text, maximum)


def _describe_remaining(context: BatchContext) -> str:
    seconds = context.validity.remaining(context.now).total_seconds()
    remaining = describe_duration(int(seconds))
    return f"{remaining} left of at most {describe_duration(context.policy.max_expires_in)}"


_REMAINING_RULE = Rule[BatchContext]("grant.expires_in", _check_remaining, _describe_remaining)


def refuse_withdrawn(
    recorded: RecordedChunk,
    config: TenantConfig,
    find: Callable[[Iterator[IssuedItem]], Mapping[int, Refusal]],
) -> RecordedChunk:
    """Return a committed chunk whose withdrawn items are refused; their rows keep their digests.

    find returns the refusals of the withdrawn ones among issued items, by their number.
    """
    profile = config.buckets.get(recorded.terms.bucket)
    place = recorded.terms.bucket, None if profile is None else storage_name(profile)
    refusals = find(
        IssuedItem(recorded.batch_id, row.item_number, *place, row.object_key)
        for row in recorded.rows
        if row.code is None
    )
    if not refusals:
        return recorded

    def refuse(row: GrantRow) -> GrantRow:
        refusal = refusals.get(row.item_number)
        if refusal is None:
            return row
        detail = refused_item_result(refusal, row.object_key)
        return row._replace(code=str(refusal.code), detail=detail)

    return replace(recorded, rows=[refuse(row) for row in recorded.rows])
