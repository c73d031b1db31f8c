"""One chunk's decision: each item is refused, or signed and given its audit row."""

from collections.abc import Callable, Sequence
from typing import Any

from valetkey.messages import Item, Message, grant_id
from valetkey.refusals import Refusal
from valetkey.terms import AnyTerms
from worker.core import items, keys
from worker.core.admission import Admitted
from worker.core.decisions import NOT_BEGUN, Begun, Decided, Recorded, Row, refused_item
from worker.core.items import Continued
from worker.core.quotas import price
from worker.core.signing import Place, signer
from worker.core.tenancy import Policy

Begin = Callable[[str, Item], Begun]
"""Have storage begin a multipart upload for an item, under its grant id."""

_Decision = tuple[Row, dict[str, Any], Begun]


def decide(
    message: Message, admitted: Admitted, place: Place, begin: Begin, continued: Continued | None
) -> Decided:
    """Decide on each item of an admitted chunk, in order."""
    sign = signer(admitted.terms, place)
    is_fine = items.fine(admitted.terms, admitted.policy)
    first = message.first

    def decision(index: int, item: Item) -> _Decision:
        number = first + index
        name = grant_id(message.batch, number)
        if is_fine(item):
            grant, digest = sign(name, item, NOT_BEGUN)
            return Row(number, item.key, None, None, digest), grant, NOT_BEGUN
        asked = (item, admitted.terms, admitted.policy, f"items[{index}]")
        refusal = items.refused(*asked, continued)
        if refusal is not None:
            return _refused(number, item, refusal)
        begun = begin(name, item) if continued is None else continued.begun
        grant, digest = sign(name, item, begun)
        own = item.model_dump(mode="json", exclude={"key"}, exclude_none=True)
        return Row(number, item.key, None, own or None, digest), grant, begun

    made = [decision(index, item) for index, item in enumerate(message.items)]
    rows, answers, begun = zip(*made, strict=True)
    granted = [item for item, row in zip(message.items, rows, strict=True) if row.code is None]
    return Decided(
        rows=rows,
        answers=answers,
        life=place.life,
        access_key=place.credentials.access_key,
        price=price(admitted.terms, granted),
        begun=_began(rows, begun) if continued is None else {},
    )


def _began(rows: Sequence[Row], begun: Sequence[Begun]) -> dict[int, Begun]:
    pairs = zip(rows, begun, strict=True)
    return {row.number: upload for row, upload in pairs if upload is not NOT_BEGUN}


def decide_again(
    recorded: Recorded, terms: AnyTerms, policy: Policy, place: Place, of: Begun | None
) -> Decided:
    """Sign what was granted once more; what was refused is answered as it was.

    A key that is no longer behind a prefix of the policy is refused; its row keeps the digest of
    what was signed. of is the multipart upload whose parts these are.
    """
    sign = signer(terms, place)

    def decision(index: int, row: Row) -> tuple[Row, dict[str, Any]]:
        if row.code is not None:
            return row, row.detail or {}
        item = Item.model_validate({"key": row.key, **(row.detail or {})})
        refusal = items.key_refused(item, terms, policy, f"items[{index}].key")
        if refusal is not None:
            return row._replace(code=refusal.code.value), refused_item(refusal, row.key)
        begun = of or recorded.begun.get(row.number, NOT_BEGUN)
        grant, digest = sign(grant_id(recorded.batch, row.number), item, begun)
        return row._replace(digest=digest), grant

    made = [decision(index, row) for index, row in enumerate(recorded.rows)]
    return Decided(
        rows=[row for row, _ in made],
        answers=[answer for _, answer in made],
        life=place.life,
        access_key=place.credentials.access_key,
    )


def _refused(number: int, item: Item, refusal: Refusal) -> _Decision:
    detail = refusal.model_dump(mode="json", exclude_none=True)
    row = Row(number, keys.shown(item.key), refusal.code.value, detail)
    return row, detail, NOT_BEGUN
