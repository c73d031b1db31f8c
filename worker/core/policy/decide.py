"""One chunk's decision: each item is refused, or signed and given its audit row."""

from collections.abc import Callable, Sequence
from typing import Any

from valetkey.wire.messages import ChunkMessage, Item, grant_id
from valetkey.wire.refusals import Refusal
from valetkey.wire.terms import AnyTerms
from worker.core.policy import items
from worker.core.policy.admission import Admission
from worker.core.policy.decisions import (
    NO_UPLOAD,
    ChunkDecision,
    GrantRow,
    RecordedChunk,
    StartedUpload,
    item_refusal_values,
)
from worker.core.policy.items import ContinuedUpload
from worker.core.quotas.cost import granted_cost
from worker.core.signing import object_keys
from worker.core.signing.signer import SigningContext, item_signer
from worker.core.tenants.config import Policy

StartUpload = Callable[[str, Item], StartedUpload]
"""Have storage begin a multipart upload for an item, under its grant id."""

_Decision = tuple[GrantRow, dict[str, Any], StartedUpload]


def decide_chunk(
    message: ChunkMessage,
    admitted: Admission,
    place: SigningContext,
    begin: StartUpload,
    continued: ContinuedUpload | None,
) -> ChunkDecision:
    """Decide on each item of an admitted chunk, in order."""
    sign = item_signer(admitted.terms, place)
    is_fine = items.simple_item_check(admitted.terms, admitted.policy)
    first = message.first_item

    def decision(index: int, item: Item) -> _Decision:
        number = first + index
        name = grant_id(message.batch, number)
        if is_fine(item):
            grant, digest = sign(name, item, NO_UPLOAD)
            return GrantRow(number, item.key, None, None, digest), grant, NO_UPLOAD
        asked = (item, admitted.terms, admitted.policy, f"items[{index}]")
        refusal = items.item_refusal(*asked, continued)
        if refusal is not None:
            return _refused(number, item, refusal)
        begun = begin(name, item) if continued is None else continued.begun
        grant, digest = sign(name, item, begun)
        own = item.model_dump(mode="json", exclude={"key"}, exclude_none=True)
        return GrantRow(number, item.key, None, own or None, digest), grant, begun

    made = [decision(index, item) for index, item in enumerate(message.items)]
    rows, answers, begun = zip(*made, strict=True)
    granted = [item for item, row in zip(message.items, rows, strict=True) if row.code is None]
    return ChunkDecision(
        rows=rows,
        answers=answers,
        life=place.life,
        access_key=place.credentials.access_key,
        price=granted_cost(admitted.terms, granted),
        begun=_began(rows, begun) if continued is None else {},
    )


def _began(rows: Sequence[GrantRow], begun: Sequence[StartedUpload]) -> dict[int, StartedUpload]:
    pairs = zip(rows, begun, strict=True)
    return {row.number: upload for row, upload in pairs if upload is not NO_UPLOAD}


def sign_again(
    recorded: RecordedChunk,
    terms: AnyTerms,
    policy: Policy,
    place: SigningContext,
    of: StartedUpload | None,
) -> ChunkDecision:
    """Sign what was granted once more; what was refused is answered as it was.

    A key that is no longer behind a prefix of the policy is refused; its row keeps the digest of
    what was signed. of is the multipart upload whose parts these are.
    """
    sign = item_signer(terms, place)

    def decision(index: int, row: GrantRow) -> tuple[GrantRow, dict[str, Any]]:
        if row.code is not None:
            return row, row.detail or {}
        item = Item.model_validate({"key": row.key, **(row.detail or {})})
        refusal = items.item_key_refusal(item, terms, policy, f"items[{index}].key")
        if refusal is not None:
            return row._replace(code=refusal.code.value), item_refusal_values(refusal, row.key)
        begun = of or recorded.begun.get(row.number, NO_UPLOAD)
        grant, digest = sign(grant_id(recorded.batch, row.number), item, begun)
        return row._replace(digest=digest), grant

    made = [decision(index, row) for index, row in enumerate(recorded.rows)]
    return ChunkDecision(
        rows=[row for row, _ in made],
        answers=[answer for _, answer in made],
        life=place.life,
        access_key=place.credentials.access_key,
    )


def _refused(number: int, item: Item, refusal: Refusal) -> _Decision:
    detail = refusal.model_dump(mode="json", exclude_none=True)
    row = GrantRow(number, object_keys.printable_key(item.key), refusal.code.value, detail)
    return row, detail, NO_UPLOAD
