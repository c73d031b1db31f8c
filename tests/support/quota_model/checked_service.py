"""The service over one database, compared with the model after each step."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from itertools import permutations
from typing import Any

from sqlalchemy import Engine, func, select

from models import Batch, Grant, Reservation, Usage
from tests.support.builders import messages, services
from tests.support.crypto import tokens
from tests.support.quota_model.batches import MAX_BYTES, NO_COST, ModelCost
from tests.support.quota_model.model import (
    LIVE,
    CancelStep,
    IssueStep,
    QuotaModel,
    Step,
    StepResult,
    UsageKey,
    usage_of,
)
from valetkey.crypto.keys import PrivateKey
from worker.aws.clients import S3Clients
from worker.core.tenants.config import Quota, QuotaOverride, TenantConfig, TenantKey
from worker.db import tenants
from worker.db.engine import read_transaction, write_transaction
from worker.usecases.upkeep.cleanup import clean_up

QuotaValues = set[tuple[str, str, int, int]]
"""The metric, window, limit and usage of each quota."""

_USAGE = (Usage.grants, Usage.download_grants, Usage.upload_bytes)
_RESERVED = (
    func.sum(Reservation.grants),
    func.sum(Reservation.download_grants),
    func.sum(Reservation.upload_bytes),
)


class CheckedService:
    """The service for the tenant acme, as several processes with their own connections run it.

    acme can be removed and replaced by another tenant of that name.
    """

    def __init__(self, engines: Sequence[Engine], s3: S3Clients) -> None:
        self.clock = messages.Clock()
        self.model = QuotaModel()
        self.keys: dict[str, TenantKey] = {}
        self._engine = engines[0]
        self._processes = [services.build_service(engine, s3, self.clock) for engine in engines]
        self._results: dict[tuple[str, IssueStep], Any] = {}

    @property
    def tenant_id(self) -> str:
        """The id of the tenant that has the name acme now."""
        return _nth_id(len(self.model.removed) + 1)

    def replace_tenant(self) -> None:
        """Remove the tenant, and add another one with the same name, keys and limits."""
        with write_transaction(self._engine) as connection:
            before = tenants.load_config(connection)
            tenants.store_config(connection, before, TenantConfig(before.buckets), self.clock())
        self.model = self.model.replaced()
        self.apply_config()

    def apply_config(self) -> None:
        """Apply a config with the keys, and with the model's limits."""
        limits = self.model.limits.items()
        quotas = [Quota(metric, window, limit) for (metric, window), limit in limits]
        config = messages.tenant_config(*quotas, trust="keys", keys=self.keys)
        with write_transaction(self._engine) as connection:
            tenants.store_config(connection, tenants.load_config(connection), config, self.clock())

    def add_override(self, override: QuotaOverride) -> None:
        """Add a quota override."""
        self.model.overrides.append(
            (override.metric, override.window, override.extra, override.expires_at)
        )
        with write_transaction(self._engine) as connection:
            tenants.add_quota_override(connection, self.tenant_id, override, self.clock())

    def respond(self, message: dict[str, Any], key: PrivateKey, process: int = 0) -> Any:
        """Return the response of a process to a message that is signed now, unsealed."""
        token = tokens.sign_message(message, key, self.clock())
        response = self._processes[process].respond(token)
        if isinstance(response.sent, str):
            assert tokens.unseal_result(response.sent, key) == response.values
        return response.values

    def run(self, step: Step, key: PrivateKey) -> None:
        """Run one step, and compare its result and the returned quotas with the model."""
        result, quotas = self._run(step, key, 0)
        assert result == self.model.apply(step, self.clock())
        if quotas is not None:
            assert quotas == self._expected_quotas()

    def run_concurrently(self, steps: Sequence[Step], key: PrivateKey) -> None:
        """Run steps at once; assert that the model gets the same results in some order."""
        with ThreadPoolExecutor(len(steps)) as pool:
            runs = pool.map(lambda step, process: self._run(step, key, process), steps, range(9))
            results = {number: result for number, (result, _) in enumerate(runs)}
        for order in permutations(results):
            model = deepcopy(self.model)
            if all(model.apply(steps[n], self.clock()) == results[n] for n in order):
                self.model = model
                return
        raise AssertionError(f"{steps} had the results {results}")

    def _run(self, step: Step, key: PrivateKey, process: int) -> tuple[StepResult, Any]:
        if isinstance(step, IssueStep):
            return self._issue(step, key, process)
        if isinstance(step, CancelStep):
            cancel = {"v": 1, "ask": "cancel", "tenant": "acme", "requested_by": "ann"}
            response = self.respond({**cancel, "batch": step.batch_id}, key, process)
            return (response["issued"], response["released"]), None
        return clean_up(self._processes[process].context)["released"], None

    def _issue(
        self, step: IssueStep, key: PrivateKey, process: int
    ) -> tuple[StepResult, QuotaValues]:
        outcome = self.respond(self.message(step), key, process)
        first_items = self._results.setdefault((self.tenant_id, step), outcome["items"])
        assert first_items == outcome["items"]
        codes = tuple(item.get("code") for item in outcome["items"])
        quotas = {(q["metric"], q["window"], q["limit"], q["used"]) for q in outcome["quotas"]}
        return (outcome.get("refusal", {}).get("code"), codes), quotas

    def message(self, step: IssueStep) -> dict[str, Any]:
        """Return the message of a step."""
        batch = self.model.batches[step.batch_id]
        grant = {"kind": batch.kind, "bucket": "demo", "expires_in": batch.expires_in}
        if batch.kind != "download":
            grant |= {"max_size": MAX_BYTES, "content_type": "image/png"}
        model_items = batch.chunk_items(step.chunk)
        items: list[dict[str, Any]] = [
            {"key": "acme/a" if item.is_allowed else "globex/a"} for item in model_items
        ]
        if batch.kind == "put":
            sizes = [item.size for item in model_items]
            items = [item | {"size": size} for item, size in zip(items, sizes, strict=True)]
        message = messages.grant_message(batch=batch.id, grant=grant, total=len(batch.items))
        return message | {"chunk_size": batch.chunk_size, "chunk": step.chunk, "items": items}

    def check_tables(self) -> None:
        """Compare the tables with the model, for each of the tenants that had the name."""
        for number, model in enumerate([*self.model.removed, self.model], start=1):
            tenant_id = _nth_id(number)
            usage = self._usage(tenant_id)
            assert usage == model.kept_usage()
            assert usage.get(LIVE, NO_COST) == self._reserved_cost(tenant_id)
            assert self._codes(tenant_id) == model.codes()

    def _expected_quotas(self) -> QuotaValues:
        now, usage = self.clock(), self._usage(self.tenant_id)
        return {
            (*quota, self.model.limit(*quota, now), usage_of(usage, *quota, now))
            for quota in self.model.limits
        }

    def _usage(self, tenant_id: str) -> dict[UsageKey, ModelCost]:
        query = select(Usage.window, Usage.window_start, *_USAGE).where(Usage.tenant == tenant_id)
        with read_transaction(self._engine) as connection:
            rows = connection.execute(query).all()
        usage: Any = [((row[0], row[1]), (row[2], row[3], row[4])) for row in rows]
        return {key: cost for key, cost in usage if any(cost)}

    def _reserved_cost(self, tenant_id: str) -> ModelCost:
        query = select(*_RESERVED).where(Reservation.tenant == tenant_id)
        with read_transaction(self._engine) as connection:
            grants, download_grants, size = connection.execute(query).one()
        return int(grants or 0), int(download_grants or 0), int(size or 0)

    def _codes(self, tenant_id: str) -> dict[tuple[str, int], str | None]:
        query = (
            select(Batch.batch_id, Grant.item_number, Grant.code)
            .join(Batch, Batch.batch_number == Grant.batch_number)
            .where(Batch.tenant == tenant_id)
        )
        with read_transaction(self._engine) as connection:
            return {(row[0], row[1]): row[2] for row in connection.execute(query)}


def _nth_id(number: int) -> str:
    return "acme" if number == 1 else f"acme~{number}"
