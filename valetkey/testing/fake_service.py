"""A service in this process: it decides on messages by a policy and by the script of a test."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import md5
from math import ceil
from threading import RLock
from typing import Any, get_args

from pydantic import BaseModel

from valetkey.crypto.jose import MAX_MESSAGE_BYTES
from valetkey.signing.signing_context import Validity
from valetkey.testing.fake_batches import Batch, Chunk, OpenUpload, Stored, quota_states
from valetkey.testing.policy import Policy, Quota, item_refusal, policy_verdicts, refuse
from valetkey.wire import RELEASE, messages
from valetkey.wire.chunking import uuid7_time
from valetkey.wire.grant_ids import grant_id, split_grant_id
from valetkey.wire.messages import (
    AnyMessage,
    BatchMessage,
    BundleMessage,
    CancelMessage,
    ChunkMessage,
    ReissueMessage,
    ServiceMessage,
    StatusMessage,
    UsageMessage,
)
from valetkey.wire.parsing import parse_bundled, parse_message
from valetkey.wire.refusals import Code, QuotaState, Refusal
from valetkey.wire.replies import (
    BatchState,
    Cancelled,
    Explanation,
    Outcome,
    RuleVerdict,
    ServiceInfo,
    ServiceLimits,
    Usage,
    UseState,
    UseStates,
)
from valetkey.wire.terms import TERMS_BY_KIND, Parts, StorageTerms, Upload

Deliver = Callable[[str, str], None]
"""Takes the task id and the result of a message, as Celery stores it."""

_LIMITS = ServiceLimits(
    **messages.WIRE_LIMITS,
    max_frame_bytes=8 * 1024**2,
    max_message_bytes=MAX_MESSAGE_BYTES,
    max_message_age=86_400,
    max_clock_skew=60,
)
_SLOT_KINDS = {kind for kind, each in TERMS_BY_KIND.items() if issubclass(each, StorageTerms)}
_REISSUED_KINDS = ["download", "upload", "put"]
_CLOSED = refuse(Code.BATCH_CLOSED, "batch", "the batch was cancelled, or began too long ago")
_CONFLICT = refuse(Code.BATCH_CONFLICT, "batch", "this batch id was used with other content")
_UNKNOWN = refuse(Code.BATCH_UNKNOWN, "batch", "no message of such a batch was received")
_OPEN_SECONDS = {"minute": 60, "hour": 3_600}


@dataclass
class Request:
    """A request that a fake client received; of a batch, with all items received so far.

    options are the options of the call that were sent, such as expires_in or callback. chunks are
    the numbers of the chunks that its items came in.
    """

    ask: str
    kind: str | None
    bucket: str | None
    batch_id: str | None
    requested_by: str | None
    recipient: str | None
    reason: str | None
    options: dict[str, Any]
    items: list[dict[str, Any]] = field(default_factory=list)
    chunks: set[int] = field(default_factory=set, repr=False)

    @property
    def keys(self) -> list[str]:
        """The object keys of its items."""
        return [item["key"] for item in self.items]

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> "Request":
        """Return the request of a message."""
        options = {**body} | body.get("grant", {})
        for name in ("v", "tenant", "chunk", "total", "chunk_size", "grant", "messages"):
            options.pop(name, None)
        items = options.pop("items", []) if "grant" in body else []
        names = ("kind", "bucket", "requested_by", "recipient", "reason")
        fields = {name: options.pop(name, None) for name in names}
        ask, batch_id = options.pop("ask", "grants"), options.pop("batch", None)
        return cls(ask=ask, batch_id=batch_id, options=options, items=[*items], **fields)


class FakeService:
    """Answers each message of a tenant, as a service does that has no storage.

    It can be used by several clients and threads. policies has the policy of each bucket profile;
    that of None is for all others.
    """

    def __init__(self, storage_url: str) -> None:
        self.policies: Mapping[str | None, Policy] = {}
        self.quotas: list[Quota] = []
        self.storage_url = storage_url
        self.requests: list[Request] = []
        self.refusals: dict[str | None, Refusal] = {}
        self.is_stalled = self.is_unreachable = False
        self._waiting: dict[str, tuple[Any, Deliver]] = {}
        self._batches: dict[str, Batch] = {}
        self._cancelled: set[str] = set()
        self._stored: dict[str, Stored] = {}
        self._newest: dict[str, str] = {}  # the id of the grant that stored the object of a key
        self._awaited: dict[str | None, tuple[int | None, str | None]] = {}
        self._lock = RLock()

    def now(self) -> datetime:
        """Return the time of the service."""
        return datetime.now(UTC)

    def begin_of(self, id_: str) -> float:
        """Return the time at which the batch of a grant was requested, in Unix seconds."""
        batch = self._batches.get(split_grant_id(id_)[0])
        return uuid7_time(id_) if batch is None else batch.began_at.timestamp()

    def advance(self, seconds: float) -> None:
        """Let time pass: all that happened is so much longer ago, for the clients as well."""
        with self._lock:
            age = timedelta(seconds=ceil(seconds))  # signatures have whole seconds
            for batch in self._batches.values():
                batch.grow_older(age)
            for id_, stored in self._stored.items():
                self._stored[id_] = stored._replace(stored_at=stored.stored_at - age)

    # Messages

    def receive(self, task_id: str, body: dict[str, Any], deliver: Deliver) -> None:
        """Answer a message, or keep it while the service is stalled."""
        with self._lock:
            if task_id not in self._waiting:  # else it is sent again
                self._record(body)
            self._waiting[task_id] = body, deliver
            if not self.is_stalled:
                self._answer_waiting()

    def resume(self) -> None:
        """Answer the messages that wait, and those that come."""
        with self._lock:
            self.is_stalled = self.is_unreachable = False
            self._answer_waiting()

    def is_waiting(self, task_id: str) -> bool:
        """Return true for a message that is not answered yet."""
        return task_id in self._waiting

    def withdraw(self, task_ids: Iterable[str]) -> None:
        """Forget messages that nobody waits for."""
        with self._lock:
            for task_id in task_ids:
                self._waiting.pop(task_id, None)

    def _answer_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for task_id, (body, deliver) in waiting.items():
            result = {"status": "SUCCESS", "result": self._respond(parse_message(body))}
            deliver(task_id, json.dumps(result))

    def _record(self, body: dict[str, Any]) -> None:
        for message in body.get("messages", [body]):
            request = Request.read(message)
            if request.ask == "batch" and "chunk" in message:
                continue  # the client itself asks for the chunks of a batch that it has reopened
            name, chunk = (request.ask, request.batch_id), message.get("chunk") or 0
            begun = (r for r in reversed(self.requests) if (r.ask, r.batch_id) == name)
            batch = next(begun, None) if chunk else None
            # A chunk that a request has already is one of a later request, which continues it.
            if batch is None or chunk in batch.chunks:
                batch = request
                self.requests.append(batch)
            else:
                batch.items += request.items
            batch.chunks.add(chunk)

    def _respond(self, message: AnyMessage | Refusal) -> dict[str, Any]:
        match message:
            case Refusal():
                reply = _refused("", 0, message)
            case UsageMessage():
                reply = _values(Usage(tenant=message.tenant, quotas=self._quotas()))
            case ServiceMessage():
                reply = _values(_describe_service(message.tenant))
            case CancelMessage():
                reply = _values(self._cancel(message))
            case BatchMessage():
                reply = self._reopen(message)
            case StatusMessage():
                reply = self._describe_uses(message)
            case ReissueMessage():
                reply = self._reissue(message)
            case BundleMessage():
                parsed = [parse_bundled(raw, message.tenant) for raw in message.messages]
                reply = {"status": "bundled", "replies": [self._respond(each) for each in parsed]}
            case ChunkMessage():
                is_question = message.ask == "explain"
                reply = _values(self._explain(message)) if is_question else self._issue(message)
        return reply

    def _quotas(self) -> list[QuotaState]:
        return [*quota_states(self.quotas, self._batches.values(), self.now())]

    # Requests for grants

    def _issue(self, message: ChunkMessage, reissue_of: str | None = None) -> dict[str, Any]:
        batch, chunk_number = self._batches.get(message.batch), message.chunk
        if batch is not None and batch.conflicts_with(message, reissue_of):
            return _refused(message.batch, chunk_number, _CONFLICT, self._quotas())
        if batch is None:
            batch = Batch(message, self.now(), reissue_of)
            batch.is_cancelled = message.batch in self._cancelled
        if chunk_number not in batch.chunks:
            refusal = self._later_refusal(batch) or next(self._refusals(message), None)
            batch.chunks[chunk_number] = self._decide(message, refusal)
            if message.batch not in self._batches:
                refusal = refusal or self._quota_refusal(batch)
                batch.refusal = refusal
                batch.chunks[chunk_number] = self._decide(message, refusal)
                self._batches[message.batch] = batch
            self._bind_awaited(batch.chunks[chunk_number])
        return self._outcome(batch.chunks[chunk_number])

    def _refusals(self, message: ChunkMessage) -> Iterator[Refusal]:
        verdicts = self._verdicts(message)
        return (verdict.refusal for verdict in verdicts if verdict.refusal is not None)

    def _verdicts(self, message: ChunkMessage) -> Iterator[RuleVerdict]:
        """Yield what a request is refused or granted by, except for its batch, items and quotas."""
        bucket, scripted = message.grant.bucket, self.refusals.get(None)
        if scripted is not None:
            yield RuleVerdict(rule=scripted.field, found="", refusal=scripted)
        policy = self.policies.get(bucket) or self.policies.get(None)
        if policy is None:
            text, allowed = "there is no policy for this bucket profile", [*map(str, self.policies)]
            refusal = refuse(Code.BUCKET_NOT_ALLOWED, "grant.bucket", text, allowed)
            yield RuleVerdict(rule="grant.bucket", found=bucket, refusal=refusal)
            return
        yield RuleVerdict(rule="grant.bucket", found=bucket)
        yield from policy_verdicts(message, policy, self.now())
        if isinstance(message.grant, Parts) and self._upload(message.grant) is None:
            refusal = refuse(Code.UPLOAD_UNKNOWN, "grant.of", "no open upload has this grant id")
            yield RuleVerdict(rule="grant.of", found="", refusal=refusal)

    def _upload(self, terms: Parts) -> OpenUpload | None:
        """Return the open upload whose parts are requested."""
        with suppress(ValueError):
            batch_id, number = split_grant_id(terms.of)
            batch = self._batches.get(batch_id)
            upload = None if batch is None else batch.open_upload(number)
            return upload if upload is not None and self.now() < upload.expires_at else None
        return None

    def _decide(self, message: ChunkMessage, refusal: Refusal | None) -> Chunk:
        terms, upload = message.grant, None
        validity = Validity(self.now().replace(microsecond=0), terms.expires_in, "request")
        if refusal is not None:
            keys = [item.key for item in message.items]
            return Chunk(message, validity, [_with_key(refusal, key) for key in keys], refusal)
        policy = self.policies.get(terms.bucket) or self.policies[None]
        validity = validity.limit_to(policy.max_expires_in, "policy")
        if isinstance(terms, Parts) and (upload := self._upload(terms)) is not None:
            seconds = int((upload.expires_at - validity.issued_at).total_seconds())
            validity = validity.limit_to(seconds, "provider")
        refusals: list[Refusal | None] = []
        for index, item in enumerate(message.items):
            path, scripted = f"items[{index}]", self.refusals.get(item.key)
            each = scripted and scripted.model_copy(update={"field": f"{path}.key"})
            each = each or item_refusal(item, terms, policy, path)
            if each is None and upload is not None and not upload.has_part(item):
                each = refuse(Code.PART_INVALID, f"{path}.part", "the upload has no such part")
            refusals.append(each and _with_key(each, item.key))
        return Chunk(message, validity, refusals, upload=upload)

    def _quota_refusal(self, batch: Batch) -> Refusal | None:
        for state in self._quotas():
            metric = "upload_bytes" if state.metric == "stored_bytes" else state.metric
            asked = batch.cost(metric)
            if asked and state.used + asked > state.limit:
                text = f"the quota {state.metric}.{state.window} has {state.left:,} left"
                refusal = refuse(Code.QUOTA_EXCEEDED, "total", text, state.limit)
                quota = state.model_copy(update={"asked": asked})
                return refusal.model_copy(update={"quota": quota})
        return None

    def _later_refusal(self, batch: Batch) -> Refusal | None:
        """Return the refusal of the chunks of a batch that are not decided yet."""
        seconds = min([86_400, *(_OPEN_SECONDS.get(q.window, 86_400) for q in self.quotas)])
        is_old = self.now() >= batch.began_at + timedelta(seconds=seconds)
        return batch.refusal or (_CLOSED if batch.is_cancelled or is_old else None)

    def _outcome(self, chunk: Chunk, *, has_items: bool = False) -> dict[str, Any]:
        """Return the outcome of a chunk; has_items says that a refused one lists its items."""
        message = chunk.message
        if chunk.refusal is not None:
            values = _refused(message.batch, message.chunk, chunk.refusal, self._quotas())
        else:
            values = _values(_issued(message.batch, message.chunk, self._quotas()))
            has_items = has_items or message.manifest is None
        if has_items:
            return values | {"items": chunk.results(self.storage_url)}
        issued = len(chunk.issued_items)
        counts = {"issued": issued, "refused": len(message.items) - issued}
        return values | (counts if message.manifest is not None else {})

    def _explain(self, message: ChunkMessage) -> Explanation:
        rules = [*self._verdicts(message)]
        if not any(verdict.refusal for verdict in rules):
            batch = Batch(message, self.now())
            chunk = batch.chunks[message.chunk] = self._decide(message, None)
            refused = [refusal for refusal in chunk.refusals if refusal is not None]
            text = f"{len(message.items):,} in this chunk, {len(refused):,} of them refused"
            first = refused[0] if len(refused) == len(message.items) else None
            rules.append(RuleVerdict(rule="items", found=text, refusal=first))
            refusal = self._quota_refusal(batch)
            if refusal is not None:
                rules.append(RuleVerdict(rule="quota", found="", refusal=refusal))
        is_refused = any(verdict.refusal for verdict in rules)
        return Explanation(decision="refuse" if is_refused else "issue", rules=rules)

    def _reissue(self, message: ReissueMessage) -> dict[str, Any]:
        batch_id, number = split_grant_id(message.of)
        batch = self._batches.get(batch_id)
        found = batch and number < batch.header.total and batch.item(number)
        if not batch or not found:
            refusal = refuse(Code.GRANT_UNKNOWN, "of", "there is no grant of this id")
            return _refused(message.batch, 0, refusal)
        item, header = found[1], batch.header
        if header.grant.kind not in _REISSUED_KINDS or found[2] is not None:
            text = "it was refused, or is of a kind that cannot be issued again"
            refusal = refuse(Code.REISSUE_NOT_ALLOWED, "of", text, _REISSUED_KINDS)
            return _refused(message.batch, 0, refusal)
        if batch.is_cancelled:
            return _refused(message.batch, 0, _CLOSED.model_copy(update={"field": "of"}))
        texts = {name: getattr(message, name) for name in ("recipient", "reason")}
        texts |= {n: getattr(item, n) or getattr(header, n) for n in texts if texts[n] is None}
        shorter = {} if message.expires_in is None else {"expires_in": message.expires_in}
        request = ChunkMessage(
            tenant=message.tenant,
            batch=message.batch,
            requested_by=message.requested_by,
            **texts,
            grant=header.grant.model_copy(update=shorter),
            total=1,
            items=[item.model_copy(update=dict.fromkeys(texts))],
        )
        return self._issue(request, message.of)

    # Earlier batches, and uses

    def _cancel(self, message: CancelMessage) -> Cancelled:
        batch, released = self._batches.get(message.batch), 0
        self._cancelled.add(message.batch)
        if batch is not None:
            released = 0 if batch.is_cancelled or batch.refusal else batch.undecided
            batch.is_cancelled = bool(batch.undecided)
        issued = 0 if batch is None else batch.issued
        aborting = 0 if message.abort_uploads else None
        if batch is not None and message.abort_uploads:
            aborting = len(batch.abort_uploads() - self._stored.keys())
        return Cancelled(batch=message.batch, issued=issued, released=released, aborting=aborting)

    def _reopen(self, message: BatchMessage) -> dict[str, Any]:
        batch = self._batches.get(message.batch)
        if batch is None:
            return _refused(message.batch, message.chunk or 0, _UNKNOWN)
        if message.chunk is not None:
            if (chunk := batch.chunks.get(message.chunk)) is not None:
                return self._outcome(chunk, has_items=True)
            return _refused(message.batch, message.chunk, self._later_refusal(batch) or _UNKNOWN)
        is_issued = batch.undecided == 0 and batch.refusal is None
        header = batch.header
        state = BatchState(
            batch=message.batch,
            kind=header.grant.kind,
            bucket=header.grant.bucket,
            total=header.total,
            chunk_size=header.chunk_size,
            decided=len(batch.chunks),
            issued=batch.issued,
            refused=batch.refused,
            cancelled=message.batch in self._cancelled,
            refusal=None if is_issued else self._later_refusal(batch),
            manifest=batch.manifest_state(self.storage_url),
        )
        return _values(state)

    def expire(self, batch_id: str | None) -> None:
        """End the grants of a batch, or all grants, now."""
        with self._lock:
            if batch_id is not None and batch_id not in self._batches:
                raise ValueError(f"the batch {batch_id} was not received: wait for it first")
            batches = self._batches.values() if batch_id is None else [self._batches[batch_id]]
            for batch in batches:
                batch.expire(self.now())

    def store(self, key: str | None, size: int | None, content_type: str | None) -> None:
        """Let storage have the object of a key, or of every key, as soon as it may be uploaded."""
        with self._lock:
            self._awaited[key] = size, content_type
            chunks = [each for batch in self._batches.values() for each in batch.chunks.values()]
            for chunk in chunks if key is None else reversed(chunks):
                self._bind_awaited(chunk)

    def _bind_awaited(self, chunk: Chunk) -> None:
        """Record the objects that the test says are uploaded with the grants of a chunk."""
        message = chunk.message
        if message.grant.kind not in _SLOT_KINDS:
            return
        for index, item in enumerate(message.items):
            id_ = grant_id(message.batch, message.first_item + index)
            script = self._awaited.get(item.key, self._awaited.get(None))
            if script is None or chunk.refusals[index] is not None:
                continue
            self._awaited.pop(item.key, None)  # the next grant for the key is used anew
            sizes = (script[0], item.size, getattr(message.grant, "max_size", 0))
            size = next(each for each in sizes if each is not None)
            etag = md5(id_.encode(), usedforsecurity=False).hexdigest()
            self._stored[id_] = Stored(size, self.now(), etag, script[1])
            self._newest[item.key] = id_

    def _describe_uses(self, message: StatusMessage) -> dict[str, Any]:
        batch = self._batches.get(message.batch)
        if batch is None:
            return _refused(message.batch, 0, _UNKNOWN)
        total, grant = batch.header.total, batch.header.grant
        numbers = range(total) if message.items is None else message.items
        for index, number in enumerate(numbers):
            if number >= total:
                text = "the batch has no item of this number"
                refusal = refuse(Code.GRANT_UNKNOWN, f"items[{index}]", text, total - 1)
                return _refused(message.batch, 0, refusal)
        states = [self._use_state(batch, number) for number in numbers]
        reply = UseStates(batch=message.batch, kind=grant.kind, bucket=grant.bucket, total=total)
        if message.items is not None:
            return _values(reply.model_copy(update={"items": states}))
        counts = Counter(sorted(str(state.state) for state in states))
        return _values(reply.model_copy(update={"counts": dict(counts)}))

    def _use_state(self, batch: Batch, number: int) -> UseState:
        found = batch.item(number)
        if found is None:
            is_final = self._later_refusal(batch) is not None
            return UseState(item=number, state="refused" if is_final else "undecided")
        chunk, item, refusal = found
        if refusal is not None:
            return UseState(item=number, state="refused", key=item.key)
        grant, expires_at = batch.header.grant, chunk.validity.expires_at
        state = UseState(item=number, state="open", key=item.key, expires_at=expires_at)
        stored = self._stored.get(grant_id(batch.header.batch, number))
        if stored is None:
            ended = "unused" if grant.kind in _SLOT_KINDS else "unknown"
            return state if self.now() < expires_at else state.model_copy(update={"state": ended})
        low = high = item.size or 0
        if isinstance(grant, Upload):
            low, high = grant.min_size, grant.max_size
        values = {**stored._asdict(), "uses": 1, "state": "used"}
        if self._newest[item.key] != grant_id(batch.header.batch, number):
            values["state"] = "overwritten"
        elif not low <= stored.size <= high:
            allowed = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            problem = f"size: {stored.size:,} bytes, granted {allowed}"
            values |= {"state": "mismatched", "problem": problem}
        elif stored.stored_at > expires_at:
            values["state"] = "late"
        return state.model_copy(update=values)


def _with_key(refusal: Refusal, key: str) -> Refusal:
    return refusal.model_copy(update={"key": key})


def _describe_service(tenant: str) -> ServiceInfo:
    return ServiceInfo(
        tenant=tenant,
        release=RELEASE,
        versions=[messages.VERSION],
        asks=list(get_args(messages.Ask)),
        kinds=list(TERMS_BY_KIND),
        limits=_LIMITS,
    )


def _refused(
    batch_id: str, chunk: int, refusal: Refusal, quotas: list[QuotaState] | None = None
) -> dict[str, Any]:
    outcome = Outcome(
        batch=batch_id, chunk=chunk, status="refused", refusal=refusal, quotas=quotas or []
    )
    return _values(outcome)


def _issued(batch_id: str, chunk: int, quotas: list[QuotaState]) -> Outcome:
    return Outcome(batch=batch_id, chunk=chunk, status="issued", quotas=quotas)


def _values(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", exclude_none=True)
