"""The kind `parts`: presigned PUTs of the parts of a multipart upload."""

from collections.abc import Collection
from typing import Protocol

from valetkey.wire.messages import Item
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import Parts
from worker.core.kinds.item_checks import accept_any
from worker.core.kinds.rules import make_kind_rule
from worker.core.kinds.spec import GrantKind, RequiredField
from worker.core.quotas.cost import NO_COST, Cost
from worker.core.signing.context import ItemSigner, SignedGrant, SigningContext
from worker.core.signing.digests import signature_digest
from worker.core.signing.multipart_plan import StartedUpload


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
        text = "the upload is of another object key"
        return Refusal(code=Code.PART_INVALID, field=f"{field}.key", message=text)
    count = continued_upload.upload.plan.part_count
    if item.part is not None and item.part > count:
        text = "the upload does not have that many parts"
        field = f"{field}.part"
        return Refusal(code=Code.PART_INVALID, field=field, message=text, limit=count)
    return None


def _make_signer(_: Parts, context: SigningContext) -> ItemSigner:
    urls = context.signer_for("PUT")
    common = context.common_fields("PUT")

    def sign(grant_id: str, item: Item, upload: StartedUpload) -> SignedGrant:
        part = item.part or 1
        query = {"partNumber": str(part), "uploadId": upload.upload_id, "x-grant-id": grant_id}
        headers = {"content-length": str(upload.plan.part_length(part))}
        signed = urls.sign(item.key, query, headers)
        grant = {"id": grant_id, "key": item.key, "part": part, "url": signed.url}
        return grant | {"headers": headers} | common, signature_digest(signed.signature)

    return sign


def _issued_cost(_: Parts, _items: Collection[Item]) -> Cost:
    # The multipart grant charged for the whole object when it was issued.
    return NO_COST


PARTS = GrantKind(
    terms_class=Parts,
    # A tenant that may no longer start multipart uploads may not continue one either.
    rules=(make_kind_rule("multipart"),),
    reserved_cost=lambda _terms, _count: NO_COST,
    issued_cost=_issued_cost,
    make_signer=_make_signer,
    s3_actions=frozenset({"s3:PutObject"}),
    item_checks={"part": accept_any},
    required_field=RequiredField("part", Code.PART_INVALID),
)
