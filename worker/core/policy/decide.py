"""Decides on the items of a chunk: each one is refused, or signed and given its audit row."""

from collections.abc import Callable
from typing import Any

from valetkey.wire.grant_ids import grant_id
from valetkey.wire.messages import ChunkMessage, Item
from valetkey.wire.refusals import Refusal
from valetkey.wire.terms import AnyTerms
from worker.core.kinds.parts import ContinuedUpload
from worker.core.kinds.registry import grant_kind, issued_cost
from worker.core.policy.admission import Admission
from worker.core.policy.decisions import (
    ChunkDecision,
    GrantRow,
    RecordedChunk,
    recorded_item,
    refused_item_result,
)
from worker.core.policy.items import item_refusal, reissue_item_refusal, simple_item_check
from worker.core.signing.context import SigningContext
from worker.core.signing.multipart_plan import NO_UPLOAD, StartedUpload
from worker.core.signing.object_keys import printable_key
from worker.core.tenants.config import Policy

StartUpload = Callable[[str, Item], StartedUpload | Refusal]
"""Returns the started multipart upload of an item, given its grant id, or storage's refusal."""


def start_no_upload(_grant_id: str, _item: Item) -> StartedUpload:
    """Return NO_UPLOAD: the StartUpload callback of every kind but multipart."""
    return NO_UPLOAD


_ItemDecision = tuple[GrantRow, dict[str, Any]]


class ChunkDecider:
    """Decides on the items of admitted chunks that have equal admissions and one context."""

    def __init__(self, admission: Admission, context: SigningContext) -> None:
        self.admission = admission
        self._context = context
        self._sign = grant_kind(admission.terms).make_signer(admission.terms, context)
        self._is_simple = simple_item_check(admission.terms, admission.policy)

    def decide(
        self,
        message: ChunkMessage,
        start_upload: StartUpload,
        continued_upload: ContinuedUpload | None = None,
    ) -> ChunkDecision:
        """Decide on each item of a chunk; continued_upload has the requested parts."""
        terms, policy = self.admission.terms, self.admission.policy
        sign, is_simple, first_item = self._sign, self._is_simple, message.first_item
        uploads: dict[int, StartedUpload] = {}

        def decide(number: int, item: Item) -> _ItemDecision:
            id_ = grant_id(message.batch, number)
            if is_simple(item):
                grant, digest = sign(id_, item, NO_UPLOAD)
                return GrantRow(number, item.key, None, None, digest), grant
            field = f"items[{number - first_item}]"
            refusal = item_refusal(item, terms, policy, field, continued_upload)
            if refusal is not None:
                return _refuse_item(number, item, refusal)
            parts = continued_upload
            upload = start_upload(id_, item) if parts is None else parts.upload
            if isinstance(upload, Refusal):
                return _refuse_item(number, item, upload)
            if parts is None and upload is not NO_UPLOAD:
                uploads[number] = upload
            grant, digest = sign(id_, item, upload)
            return _issued_row(number, item, digest), grant

        decisions = [decide(number, item) for number, item in enumerate(message.items, first_item)]
        rows, results = zip(*decisions, strict=True)
        issued = [item for item, row in zip(message.items, rows, strict=True) if row.code is None]
        validity, access_key = self._context.validity, self._context.credentials.access_key
        cost = issued_cost(terms, issued)
        return ChunkDecision(rows, results, validity, access_key, cost=cost, uploads=uploads)


def decide_chunk(
    message: ChunkMessage,
    admission: Admission,
    context: SigningContext,
    start_upload: StartUpload,
    continued_upload: ContinuedUpload | None,
) -> ChunkDecision:
    """Decide on each item of an admitted chunk; continued_upload has the requested parts."""
    return ChunkDecider(admission, context).decide(message, start_upload, continued_upload)


def _issued_row(number: int, item: Item, digest: bytes) -> GrantRow:
    detail = item.model_dump(mode="json", exclude={"key"}, exclude_none=True)
    return GrantRow(number, item.key, None, detail or None, digest)


def _refuse_item(number: int, item: Item, refusal: Refusal) -> _ItemDecision:
    detail = refusal.model_dump(mode="json", exclude_none=True)
    row = GrantRow(number, printable_key(item.key), str(refusal.code), detail)
    return row, detail


def sign_again(
    recorded: RecordedChunk,
    terms: AnyTerms,
    policy: Policy,
    context: SigningContext,
    continued_upload: StartedUpload | None,
) -> ChunkDecision:
    """Sign the issued items of a recorded chunk again; refused items keep their result.

    An item whose key is outside the prefixes of today's policy is refused; its row keeps the digest
    of the first signature. continued_upload is the multipart upload of the recorded parts, if any.
    """
    sign = grant_kind(terms).make_signer(terms, context)

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
    return ChunkDecision(
        rows=[row for row, _ in decisions],
        results=[result for _, result in decisions],
        validity=context.validity,
        access_key=context.credentials.access_key,
    )
