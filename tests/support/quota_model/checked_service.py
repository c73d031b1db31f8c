"""The real service over one database, and the books that it is held against."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from itertools import permutations
from typing import Any

from sqlalchemy import Engine, func, select

from models import Batch, Grant, Reservation, Usage
from tests.support.builders import messages, services
from tests.support.crypto import tokens
from tests.support.quota_model.model import (
    LIVE,
    MAX_BYTES,
    NO_AMOUNT,
    Act,
    Amount,
    CancelStep,
    IssueStep,
    Place,
    QuotaModel,
    Result,
    usage_of,
)
from valetkey.crypto.keys import PrivateKey
from worker.aws.clients import S3Clients
from worker.core.tenants.config import Quota, QuotaOverride, TenantKey
from worker.db import quota_overrides, tenants
from worker.db.engine import read_transaction, write_transaction
from worker.db.ledger import Ledger
from worker.usecases.cleanup import Cleanup

_COSTS = (Usage.grants, Usage.download_grants, Usage.upload_bytes)
_HELD = (
    func.sum(Reservation.grants),
    func.sum(Reservation.download_grants),
    func.sum(Reservation.upload_bytes),
)


class CheckedService:
    """Answers for acme as several processes would, each with connections of its own."""

    def __init__(self, engines: Sequence[Engine], s3: S3Clients) -> None:
        self.clock = messages.Clock()
        self.books = QuotaModel()
        self.keys: dict[str, TenantKey] = {}
        self._engine = engines[0]
        self._answering = [services.build_service(engine, s3, self.clock) for engine in engines]
        self._upkeep = [
            Cleanup(services.build_uploads(engine, s3), Ledger(engine), self.clock)
            for engine in engines
        ]
        self._granted: dict[IssueStep, Any] = {}

    def declare(self) -> None:
        """Apply the keys, and the limits that the books have."""
        limits = self.books.limits.items()
        quotas = [Quota(metric, window, limit) for (metric, window), limit in limits]
        after = messages.tenant_config(*quotas, trust="keys", keys=self.keys)
        with write_transaction(self._engine) as connection:
            tenants.store_config(connection, tenants.load_config(connection), after)

    def lift(self, one: QuotaOverride) -> None:
        """Raise a quota."""
        self.books.raises.append((one.metric, one.window, one.extra, one.until))
        with write_transaction(self._engine) as connection:
            quota_overrides.add_override(connection, "acme", one, self.clock())

    def answer(self, message: dict[str, Any], key: PrivateKey, process: int = 0) -> Any:
        """Have a process answer a message that is signed now, and open the answer."""
        answer = self._answering[process].answer(tokens.sign_message(message, key, self.clock()))
        if isinstance(answer.wire, str):
            assert tokens.open_result(answer.wire, key) == answer.said
        return answer.said

    def come_to(self, act: Act, key: PrivateKey) -> None:
        """Do one thing, and hold it and how quotas are said to stand against the books."""
        result, quotas = self._do(act, key, 0)
        assert result == self.books.come_to(act, self.clock())
        if quotas is not None:
            assert quotas == self._standing()

    def come_to_both(self, acts: Sequence[Act], key: PrivateKey) -> None:
        """Do things at once: it has to be as if they had been done one after the other."""
        with ThreadPoolExecutor(len(acts)) as pool:
            found = pool.map(lambda act, process: self._do(act, key, process)[0], acts, range(9))
            results = dict(enumerate(found))
        for order in permutations(results):
            books = deepcopy(self.books)
            if all(books.come_to(acts[n], self.clock()) == results[n] for n in order):
                self.books = books
                return
        raise AssertionError(f"{acts} came to {results}")

    def _do(self, act: Act, key: PrivateKey, process: int) -> tuple[Result, Any]:
        if isinstance(act, IssueStep):
            said = self.answer(self.message(act), key, process)
            assert self._granted.setdefault(act, said["items"]) == said["items"]
            codes = tuple(item.get("code") for item in said["items"])
            quotas = {(q["metric"], q["window"], q["limit"], q["used"]) for q in said["quotas"]}
            return (said.get("refusal", {}).get("code"), codes), quotas
        if isinstance(act, CancelStep):
            ask = {"v": 1, "ask": "cancel", "tenant": "acme", "requested_by": "ann"}
            said = self.answer({**ask, "batch": act.batch}, key, process)
            return (said["issued"], said["released"]), None
        return self._upkeep[process].sweep()["lapsed"], None

    def message(self, act: IssueStep) -> dict[str, Any]:
        batch = self.books.batches[act.batch]
        grant = {"kind": batch.kind, "bucket": "demo", "expires_in": batch.expires_in}
        if batch.kind != "download":
            grant |= {"max_size": MAX_BYTES, "content_type": "image/png"}
        items: list[dict[str, Any]] = [
            {"key": "acme/a" if item.is_fine else "globex/a"} for item in batch.of(act.chunk)
        ]
        if batch.kind == "put":
            sizes = [item.size for item in batch.of(act.chunk)]
            items = [item | {"size": size} for item, size in zip(items, sizes, strict=True)]
        whole = messages.grant_message(batch=batch.id, grant=grant, total=len(batch.items))
        return whole | {"chunk_size": batch.chunk_size, "chunk": act.chunk, "items": items}

    def _standing(self) -> set[tuple[str, str, int, int]]:
        now, charged = self.clock(), self._charged()
        return {
            (*name, self.books.limit(*name, now), usage_of(charged, *name, now))
            for name in self.books.limits
        }

    def _charged(self) -> dict[Place, Amount]:
        with read_transaction(self._engine) as connection:
            rows = connection.execute(select(Usage.window, Usage.start, *_COSTS)).all()
        places: Any = [((row[0], row[1]), (row[2], row[3], row[4])) for row in rows]
        return {place: amount for place, amount in places if any(amount)}

    def check(self) -> None:
        """Hold the tables against the books."""
        charged = self._charged()
        assert charged == self.books.remembered()
        assert charged.get(LIVE, NO_AMOUNT) == self._held()
        assert self._rows() == self.books.rows()

    def _held(self) -> Amount:
        with read_transaction(self._engine) as connection:
            grants, downloads, size = connection.execute(select(*_HELD)).one()
        return int(grants or 0), int(downloads or 0), int(size or 0)

    def _rows(self) -> dict[tuple[str, int], str | None]:
        query = select(Batch.id, Grant.number, Grant.code).join(Batch, Batch.number == Grant.batch)
        with read_transaction(self._engine) as connection:
            return {(row[0], row[1]): row[2] for row in connection.execute(query)}
