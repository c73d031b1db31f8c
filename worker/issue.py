"""From a message to grants. Nothing signed here is seen by anyone before its rows are committed."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from valetkey.messages import Message
from valetkey.reading import read
from valetkey.refusals import Code, Refusal
from worker.adapters.ledger import Ledger
from worker.adapters.multiparts import Open
from worker.adapters.recording import Seen
from worker.adapters.s3 import S3
from worker.core import keys
from worker.core.admission import Admitted, admit
from worker.core.deciding import decide
from worker.core.decisions import Decided, lifetime, outcome, refuse_all
from worker.core.signing import Place
from worker.errors import Malformed
from worker.multipart import Uploads
from worker.reissue import Reissuer


class Issuer:
    """Decides chunks; one in each process, over its own ledger and credentials."""

    def __init__(
        self, ledger: Ledger, uploads: Uploads, s3: S3, now: Callable[[], datetime]
    ) -> None:
        self._ledger = ledger
        self._uploads = uploads
        self._s3 = s3
        self._now = now
        self._reissuer = Reissuer(ledger, uploads, s3, now)

    def issue(self, raw: Any) -> dict[str, Any]:
        """Answer one message with its outcome: grants, or a refusal that says why.

        Raises Transient where the database, the credentials or storage are out of reach; nothing
        is then recorded that the same message would not find again.
        """
        message = read(raw)
        if isinstance(message, Refusal):
            return _unread(raw, message)
        now = self._now()
        admitted = admit(message, self._ledger.declared(), now)
        if isinstance(admitted, Refusal):
            committed = self._commit(message, refuse_all(message, admitted, now))
        else:
            committed = self._commit_admitted(message, admitted, now)
        return outcome(message.batch, message.chunk, committed)

    def _commit_admitted(self, message: Message, admitted: Admitted, now: datetime) -> Decided:
        decided = self._decide(message, admitted, now)
        committed = None
        try:
            committed = self._commit(message, decided)
        finally:
            if committed is not decided:
                self._uploads.take_back(message, admitted, decided, now)
        return committed

    def _decide(self, message: Message, admitted: Admitted, now: datetime) -> Decided:
        upload = self._uploads.continued(message, now)
        if isinstance(upload, Refusal):
            return refuse_all(message, upload, now)
        place = self._place(message, admitted, upload, now)
        if isinstance(place, Refusal):
            return refuse_all(message, place, now)
        return decide(
            message, admitted, place, self._uploads.beginning(message, admitted, now), upload
        )

    def _place(
        self, message: Message, admitted: Admitted, upload: Open | None, now: datetime
    ) -> Place | Refusal:
        seconds = admitted.expires_in
        if upload is not None:  # a part outlives its upload as little as a key its lock
            seconds = min(seconds, int((upload.expires_at - now).total_seconds()))
        bucket, longest = admitted.bucket, admitted.bucket.max_expires_in
        needed = timedelta(seconds=min(seconds, longest))
        who = (bucket, message.tenant, admitted.policy.prefixes)
        credentials = self._s3.credentials(*who, now, needed)
        asked = (seconds, admitted.limited_by)
        life = lifetime(asked, admitted.terms.min_expires_in, longest, credentials, now)
        if isinstance(life, Refusal):
            return life
        try:
            return self._s3.place(bucket, credentials, life)
        except Malformed:
            text = "the bucket profile cannot be signed for: its operator has to look at it"
            return Refusal(code=Code.BUCKET_UNUSABLE, field="grant.bucket", message=text)

    def _commit(self, message: Message, decided: Decided) -> Decided:
        """Record a decision; what was decided before, or by another chunk, is what counts."""
        committed = self._ledger.record(message, decided, self._now())
        if isinstance(committed, Seen):
            return self._reissuer.reissue(self._ledger.recorded(committed.batch, message.chunk))
        if isinstance(committed, Refusal):
            return refuse_all(message, committed, self._now())
        return committed


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
