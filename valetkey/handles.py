"""What a client gets for a request: the answers, as they come."""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, Unpack

from valetkey.batches import Chunk
from valetkey.courier import Courier
from valetkey.errors import NoAnswer, Refused
from valetkey.messages import Grant, Outcome
from valetkey.options import Options
from valetkey.refusals import Refusal

PATIENCE = 30.0  # seconds


class BatchHandle:
    """A batch under way; iterate it for one Grant or Refusal an item, in the order asked.

    Items are handed out once, and chunks are sent as they are read, so that a batch of any size
    takes little memory. refusal is set once the service has refused the batch as a whole; each
    item not granted then gets that refusal, with its key.
    """

    def __init__(
        self, courier: Courier, header: Mapping[str, Any], chunks: Iterator[Chunk]
    ) -> None:
        self.id: str = header["batch"]
        self.total: int = header["total"]
        self.issued = 0
        self.refused = 0
        self.failures = 0
        self.refusal: Refusal | None = None
        self.unanswered: dict[int, Chunk] = {}
        self._courier = courier
        self._chunks = chunks
        self._count: int = -(-self.total // header["chunk_size"])
        self._sent = 0
        self._read = 0
        self._answers: dict[int, list[Grant | Refusal]] = {}
        self._ready: deque[Grant | Refusal] = deque()

    @property
    def remaining(self) -> int:
        """How many items are not decided yet."""
        return self.total - self.issued - self.refused

    def __iter__(self) -> Iterator[Grant | Refusal]:
        return self.results()

    def results(self, timeout: float = PATIENCE) -> Iterator[Grant | Refusal]:
        """The answers that were not handed out yet.

        timeout is the longest wait for the next chunk, in seconds. Raises NoAnswer after it (or
        BrokerUnreachable, where that is why); call again to ask again from there.
        """
        self._courier.take(self)
        while self._ready or self._read < self._count:
            if not self._ready:
                self._await_next(timeout)
                self._ready.extend(self._answers.pop(self._read))
                self._read += 1
            yield self._ready.popleft()

    def _await_next(self, timeout: float) -> None:
        if self._courier.wait(lambda: self._read in self._answers, timeout):
            return
        self._courier.drop(self)
        raise self._courier.trouble or NoAnswer(
            f"no answer within {timeout:g} s to {self.remaining} of {self.total} items: "
            + ("the worker's log says why it failed" if self.failures else "is a worker running?")
        )

    @property
    def started(self) -> bool:
        """Whether any of it was given to the courier."""
        return self._sent > 0 or self.all_sent

    @property
    def all_sent(self) -> bool:
        """Whether every chunk was given to the courier."""
        return self._sent == self._count

    def next_chunk(self, ahead: float) -> Chunk | None:
        """The next chunk to send, unless `ahead` of them wait for their reader."""
        if self.all_sent or self._sent - self._read >= ahead:
            return None
        chunk = next(self._chunks)
        self._sent += 1
        self.unanswered[chunk.number] = chunk
        return chunk

    def answer(self, chunk: Chunk, outcome: Outcome) -> None:
        """Take the answer to a chunk."""
        del self.unanswered[chunk.number]
        answers = outcome.items
        if outcome.refusal is not None:
            self.refusal = self.refusal or outcome.refusal
            answers = [outcome.refusal.model_copy(update={"key": key}) for key in chunk.keys]
        granted = sum(isinstance(answer, Grant) for answer in answers)
        self.issued += granted
        self.refused += len(answers) - granted
        self._answers[chunk.number] = answers


class GrantHandle:
    """A single grant under way; batch is its request, a batch of one."""

    def __init__(self, batch: BatchHandle) -> None:
        self.batch = batch
        self._result: Grant | Refusal | None = None

    @property
    def id(self) -> str:
        """The id of the request."""
        return self.batch.id

    def result(self, timeout: float = PATIENCE) -> Grant:
        """Wait for the grant, at most `timeout` seconds.

        Raises Refused, NoAnswer or BrokerUnreachable; after the latter two, call again to ask
        again.
        """
        if self._result is None:
            self._result = next(self.batch.results(timeout))
        if isinstance(self._result, Refusal):
            raise Refused(self._result)
        return self._result


class AskForParts(Protocol):
    """Client.parts, for one bucket."""

    def __call__(
        self, grant: Grant, first: int = 1, last: int | None = None, **options: Unpack[Options]
    ) -> BatchHandle:
        """Ask for the URLs of some parts."""


class MultipartHandle(GrantHandle):
    """A multipart upload under way: its result says how to cut the file, and ends the upload."""

    def __init__(self, batch: BatchHandle, ask: AskForParts) -> None:
        super().__init__(batch)
        self._ask = ask

    def parts(
        self, first: int = 1, last: int | None = None, **options: Unpack[Options]
    ) -> BatchHandle:
        """Ask for URLs that each take one part, from first to last; None is the last of all.

        Whoever uploads slowly asks for a few at a time, and again for those that have expired.
        Raises as result() does, and ValueError where there are no such parts.
        """
        return self._ask(self.result(), first, last, **options)
