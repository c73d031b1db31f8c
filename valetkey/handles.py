"""What a client gets for a request: the answers, as they come."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, Unpack

from valetkey.courier import Courier, Errand
from valetkey.errors import BrokerUnreachable, NoAnswer, Refused
from valetkey.letters import Letter
from valetkey.messages import Grant, Outcome, Reply
from valetkey.options import Options
from valetkey.progress import Progress, Question
from valetkey.refusals import Refusal

PATIENCE = 30.0  # seconds


class BatchHandle(Progress):
    """A batch under way; iterate it for one Grant or Refusal an item, in the order asked.

    Items are handed out once, and chunks are sent as they are read, so that a batch of any size
    takes little memory. refusal is set once the service has refused the batch as a whole, or it
    was cancelled; each item not granted then gets that refusal, with its key. quotas are the
    tenant's, as they stood with the newest answer.
    """

    def __init__(
        self, courier: Courier, header: Mapping[str, Any], letters: Iterator[Letter]
    ) -> None:
        super().__init__(header, letters)
        self._courier = courier

    def __iter__(self) -> Iterator[Grant | Refusal]:
        return self.results()

    def results(self, timeout: float = PATIENCE) -> Iterator[Grant | Refusal]:
        """The answers that were not handed out yet.

        timeout is the longest wait for the next chunk, in seconds. Raises NoAnswer after it (or
        BrokerUnreachable, where that is why); call again to ask again from there.
        """
        self._courier.take(self)
        while not self.all_read:
            if not self.ready:
                self._await_next(timeout)
                self.read_next()
            while self.ready:
                yield self.ready.popleft()

    def _await_next(self, timeout: float) -> None:
        if not self._courier.wait(lambda: self.has_next, timeout):
            what = f" to {self.remaining} of {self.total} items"
            raise _given_up(self._courier, self, timeout, what)


def asked(courier: Courier, letter: Letter, timeout: float) -> Reply:
    """Ask something that is answered by one reply, and wait for it, at most `timeout` seconds.

    Raises Refused, NoAnswer, BrokerUnreachable.
    """
    question = Question(letter)
    courier.take(question)
    courier.wait(lambda: question.reply is not None, timeout)
    if question.reply is None:
        raise _given_up(courier, question, timeout)
    if isinstance(question.reply, Outcome) and question.reply.refusal is not None:
        raise Refused(question.reply.refusal)
    return question.reply


def _given_up(
    courier: Courier, errand: Errand, seconds: float, what: str = ""
) -> BrokerUnreachable | NoAnswer:
    courier.drop(errand)
    why = "the worker's log says why it failed" if errand.failures else "is a worker running?"
    return courier.trouble or NoAnswer(f"no answer within {seconds:g} s{what}: {why}")


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
