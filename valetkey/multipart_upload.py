"""A whole file through a multipart upload, several parts at once, by URLs as they are needed."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from threading import Event

from valetkey import multipart_storage
from valetkey.errors import NotStored, Refused
from valetkey.handles import DEFAULT_TIMEOUT, MultipartHandle
from valetkey.wire.messages import Grant
from valetkey.wire.refusals import Refusal

_ROUNDS = 4  # parts a thread that are asked for at once: few, so that no URL expires unused
_PAUSES = (1, 4, 16)  # seconds before what storage did not take is tried again
_LIFE = 3_600  # seconds of a part's URL; the service cuts it to the policy and the upload's own


class MultipartUploader:
    """Sends a file by a multipart upload that was begun for it.

    parallel parts are under way at once; say is told of bytes as they are sent, and of those to be
    sent once more as less than none, by several threads. timeout is the longest wait for the
    service's answer, in seconds.
    """

    def __init__(  # noqa: PLR0913 - most have a default
        self,
        upload: MultipartHandle,
        path: Path,
        *,
        parallel: int = 4,
        timeout: float = DEFAULT_TIMEOUT,
        say: Callable[[int], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._upload = upload
        self._path = path
        self._parallel = parallel
        self._timeout = timeout
        self._say = say
        self._sleep = sleep
        self._halt = Event()
        self._pool = ThreadPoolExecutor(parallel)
        self._etags: dict[int, str] = {}

    def run(self) -> None:
        """Send all parts and complete the upload.

        Raises Refused, NoAnswer, BrokerUnreachable, OSError, and NotStored for what storage still
        did not take after several tries; the upload is then open, to be aborted.
        """
        grant = self._upload.result(self._timeout)
        begun = grant.multipart
        if begun is None:
            raise NotStored("the service began no multipart upload")
        numbers, step = range(1, begun.part_count + 1), self._parallel * _ROUNDS
        try:
            for first in range(0, begun.part_count, step):
                self._store(numbers[first : first + step], begun.part_size)
        finally:
            self._halt.set()
            self._pool.shutdown(cancel_futures=True)
        multipart_storage.complete_upload(grant.url, self._etags)

    def _store(self, numbers: Sequence[int], part_size: int) -> None:
        for pause in (*_PAUSES, None):
            failure = self._try([n for n in numbers if n not in self._etags], part_size)
            if failure is None:
                return
            if pause is None:
                raise failure
            self._sleep(pause)

    def _try(self, numbers: Sequence[int], part_size: int) -> NotStored | None:
        """Send parts by fresh URLs, and return why one was not stored."""
        sent = {
            self._pool.submit(self._send, grant, (number - 1) * part_size): number
            for grant in self._grants(numbers)
            if (number := grant.part or 0) in numbers
        }
        failure, ended = None, SimpleQueue[Future[str]]()
        for future in sent:  # not as_completed: Ctrl-C within it leaves futures locked for ever
            future.add_done_callback(ended.put)
        for _ in sent:
            future = ended.get()
            try:
                self._etags[sent[future]] = future.result()
            except NotStored as error:
                failure = error
        return failure

    def _grants(self, numbers: Sequence[int]) -> list[Grant]:
        # Cut instead of refused, where the policy allows less.
        batch = self._upload.parts(numbers[0], numbers[-1], expires_in=_LIFE, min_expires_in=1)
        answers = list(batch.results(self._timeout))
        for answer in answers:
            if isinstance(answer, Refusal):
                raise Refused(answer)
        return [answer for answer in answers if isinstance(answer, Grant)]

    def _send(self, grant: Grant, offset: int) -> str:
        with self._path.open("rb") as stream:
            length = int(grant.headers["content-length"])
            piece = multipart_storage.FileSlice(stream, offset, length, self._say, self._halt)
            try:
                return multipart_storage.put_part(grant.url, grant.headers, piece)
            except NotStored:
                self._say(-piece.sent)
                raise
