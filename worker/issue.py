"""From a message to grants. Nothing signed here is seen by anyone before its rows are committed."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from valetkey.messages import Item, Message, grant_id
from valetkey.reading import read
from valetkey.refusals import Refusal
from worker.adapters.ledger import Ledger
from worker.adapters.recording import Seen
from worker.adapters.s3 import S3
from worker.core import keys
from worker.core.admission import Admitted, admit, filename_refused
from worker.core.decisions import Decided, Recorded, Row, lifetime, outcome, refuse_all
from worker.core.disposition import valid_filename
from worker.core.signing import Sign, signer
from worker.core.tenancy import Bucket
from worker.errors import Malformed


class Issuer:
    """Decides chunks; one in each process, over its own ledger and credentials."""

    def __init__(self, ledger: Ledger, s3: S3, now: Callable[[], datetime]) -> None:
        self._ledger = ledger
        self._s3 = s3
        self._now = now

    def issue(self, raw: Any) -> dict[str, Any]:
        """Answer one message with its outcome: grants, or a refusal that says why.

        Raises Transient where the database or the credentials are out of reach; nothing is then
        recorded that the same message would not find again.
        """
        message = read(raw)
        if isinstance(message, Refusal):
            return _unread(raw, message)
        decided = self._decide(message)
        committed = self._ledger.record(message, decided, self._now())
        if isinstance(committed, Seen):
            committed = self.reissue(self._ledger.recorded(committed.batch, message.chunk))
        elif isinstance(committed, Refusal):
            committed = refuse_all(message, committed, self._now())
        return outcome(message.batch, message.chunk, committed)

    def _decide(self, message: Message) -> Decided:
        now = self._now()
        admitted = admit(message, self._ledger.declared(), now)
        if isinstance(admitted, Refusal):
            return refuse_all(message, admitted, now)
        needed = timedelta(seconds=admitted.expires_in)
        credentials = self._s3.credentials(admitted.bucket.profile, now, needed)
        asked = (admitted.expires_in, admitted.limited_by)
        life = lifetime(asked, message.grant.min_expires_in, credentials, now)
        if isinstance(life, Refusal):
            return refuse_all(message, life, now)
        target = self._s3.target(admitted.bucket)
        sign = signer(message.grant, admitted.bucket.bucket, target, credentials, life)
        signed = [_item(message, place, admitted, sign) for place in range(len(message.items))]
        rows, answers = zip(*signed, strict=True)
        return Decided(rows, answers, life, credentials.access_key)

    def reissue(self, recorded: Recorded) -> Decided:
        """Sign a committed chunk again, to the byte while its credentials and bucket are the same.

        Where they are not, what came out instead is committed before it is returned.
        """
        if recorded.refusal is not None:
            return Decided(recorded.rows, [], recorded.life, refusal=recorded.refusal)
        now = self._now()
        bucket = self._bucket(recorded)
        left = recorded.life.expires_at - now
        credentials = self._s3.credentials(bucket.profile, now, left)
        target = self._s3.target(bucket)
        sign = signer(recorded.terms, bucket.bucket, target, credentials, recorded.life)
        signed = [_again(recorded.batch, row, sign) for row in recorded.rows]
        rows, answers = zip(*signed, strict=True)
        decided = Decided(rows, answers, recorded.life, credentials.access_key)
        if rows != tuple(recorded.rows):
            self._ledger.reissued(recorded, decided, now)
        return decided

    def _bucket(self, recorded: Recorded) -> Bucket:
        bucket = self._ledger.declared().buckets.get(recorded.terms.bucket)
        if bucket is None:
            raise Malformed("the bucket profile of a committed batch is no longer declared")
        return bucket


def _unread(raw: Any, refusal: Refusal) -> dict[str, Any]:
    # Whoever sent it finds its answer by the task; a batch and chunk that can be read help it more.
    header = raw if isinstance(raw, dict) else {}
    batch, chunk = header.get("batch"), header.get("chunk", 0)
    return {
        "batch": keys.shown(batch)[:36] if isinstance(batch, str) else "",
        "chunk": chunk if type(chunk) is int else 0,
        "status": "refused",
        "refusal": refusal.model_dump(mode="json", exclude_none=True),
        "items": [],
    }


def _item(
    message: Message, place: int, admitted: Admitted, sign: Sign
) -> tuple[Row, dict[str, Any]]:
    item, number = message.items[place], message.first + place
    refusal = _refused(item, admitted, place)
    if refusal is not None:
        detail = refusal.model_dump(mode="json", exclude_none=True)
        return Row(number, keys.shown(item.key), refusal.code.value, detail), detail
    grant, digest = sign(grant_id(message.batch, number), item.key, item.filename)
    own = None if item.filename is None else {"filename": item.filename}
    return Row(number, item.key, None, own, digest), grant


def _refused(item: Item, admitted: Admitted, place: int) -> Refusal | None:
    refusal = keys.refused(item.key, admitted.prefixes, f"items[{place}].key")
    if refusal is None and item.filename is not None and not valid_filename(item.filename):
        refusal = filename_refused(f"items[{place}].filename")
        return refusal.model_copy(update={"key": item.key})
    return refusal


def _again(batch: str, row: Row, sign: Sign) -> tuple[Row, dict[str, Any]]:
    if row.code is not None:
        return row, row.detail or {}
    filename = (row.detail or {}).get("filename")
    grant, digest = sign(grant_id(batch, row.number), row.key, filename)
    return row._replace(digest=digest), grant
