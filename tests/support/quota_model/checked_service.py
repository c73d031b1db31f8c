"""The service over one database, compared with the model after each step."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from itertools import permutations
from typing import Any

from sqlalchemy import Engine

from models import Batch, EndedSlot, Grant, Reservation, Usage
from tests.support.builders import messages, services
from tests.support.builders.services import InProcessService
from tests.support.quota_model.model import (
    LIVE,
    MAX_BYTES,
    NO_COST,
    CancelStep,
    IssueStep,
    ModelCost,
    QuotaModel,
    Step,
    StepResult,
    UsageKey,
    usage_of,
)
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import write_transaction
from worker.issue.cleanup import clean_up
from worker.ledger import tenant_rows
from worker.quota.quota_changes import raise_quota
from worker.rules.tenant_config import Quota, QuotaOverride, TenantConfig
from worker.tenants.config_changes import ChangeAuthor

QuotaValues = set[tuple[str, str, int, int]]
"""The metric, window, limit and usage of each quota."""


class CheckedService:
    """The service for the tenant acme, as several processes with their own connections run it.

    acme can be removed and replaced by another tenant of that name.
    """

    def __init__(self, engines: Sequence[Engine], s3: S3Clients) -> None:
        self.clock = messages.Clock()
        self.model = QuotaModel()
        self._engine = engines[0]
        self._processes = [services.build_service(engine, s3, self.clock) for engine in engines]
        self._service = self._processes[0]
        self._results: dict[tuple[str, IssueStep], Any] = {}

    @property
    def tenant_id(self) -> str:
        """The id of the tenant that has the name acme now."""
        return _nth_id(len(self.model.removed) + 1)

    def replace_tenant(self) -> None:
        """Remove the tenant, and add another one with the same name and limits."""
        self._service.apply(TenantConfig())
        self.model = self.model.replaced()
        self.apply_config()

    def apply_config(self) -> None:
        limits = self.model.limits.items()
        quotas = [Quota(metric, window, limit) for (metric, window), limit in limits]
        self._service.apply(messages.tenant_config(*quotas))

    def add_override(self, override: QuotaOverride) -> None:
        """Add a quota override."""
        self.model.overrides.append(override)
        with write_transaction(self._engine) as connection:
            tenant = tenant_rows.load_config(connection).tenant_by_id(self.tenant_id)
            assert tenant is not None
            raise_quota(connection, tenant, override, ChangeAuthor(self.clock(), "ops", "quota"))

    def run(self, step: Step) -> None:
        """Run one step, and compare its result and the returned quotas with the model."""
        result, quotas = self._run(step, self._service)
        assert result == self.model.apply(step, self.clock())
        if quotas is not None:
            assert quotas == self._expected_quotas()

    def run_concurrently(self, steps: Sequence[Step]) -> None:
        """Run steps at once; assert that the model gets the same results in some order."""
        with ThreadPoolExecutor(len(steps)) as pool:
            runs = pool.map(self._run, steps, self._processes)
            results = {number: result for number, (result, _) in enumerate(runs)}
        for order in permutations(results):
            model = deepcopy(self.model)
            if all(model.apply(steps[n], self.clock()) == results[n] for n in order):
                self.model = model
                return
        raise AssertionError(f"{steps} had the results {results}")

    def _run(self, step: Step, process: InProcessService) -> tuple[StepResult, Any]:
        if isinstance(step, IssueStep):
            return self._issue(step, process)
        if isinstance(step, CancelStep):
            response = process.cancel(step.batch_id)
            return (response["issued"], response["released"]), None
        return clean_up(process.context)["released"], None

    def _issue(self, step: IssueStep, process: InProcessService) -> tuple[StepResult, QuotaValues]:
        outcome = process.issue(self._message(step))
        first_items = self._results.setdefault((self.tenant_id, step), outcome["items"])
        assert first_items == outcome["items"]
        codes = tuple(item.get("code") for item in outcome["items"])
        quotas = {(q["metric"], q["window"], q["limit"], q["used"]) for q in outcome["quotas"]}
        return (outcome.get("refusal", {}).get("code"), codes), quotas

    def _message(self, step: IssueStep) -> dict[str, Any]:
        batch = self.model.batches[step.batch_id]
        grant = {"kind": batch.kind, "bucket": "demo", "expires_in": batch.expires_in}
        if batch.kind != "download":
            grant |= {"max_size": MAX_BYTES, "content_type": "image/png"}
        items: list[dict[str, Any]] = []
        for item in batch.chunk_items(step.chunk):
            size = {"size": item.size} if batch.kind == "put" else {}
            items.append({"key": "acme/a" if item.is_allowed else "globex/a", **size})
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
        rows = [row for row in self._service.rows(Usage) if row.tenant == tenant_id]
        usage = {(row.window, row.window_start): _cost(row) for row in rows}
        return {key: cost for key, cost in usage.items() if any(cost)}

    def _reserved_cost(self, tenant_id: str) -> ModelCost:
        rows = [row for row in self._service.rows(Reservation) if row.tenant == tenant_id]
        slots = [row for row in self._service.rows(EndedSlot) if row.tenant == tenant_id]
        grants, download_grants, size = zip(NO_COST, *map(_cost, rows), strict=True)
        unsettled = sum(slot.reserved_bytes for slot in slots)
        return sum(grants), sum(download_grants), sum(size) + unsettled

    def _codes(self, tenant_id: str) -> dict[tuple[str, int], str | None]:
        batches = self._service.rows(Batch)
        ids = {row.batch_number: row.batch_id for row in batches if row.tenant == tenant_id}
        return {
            (ids[row.batch_number], row.item_number): row.code
            for row in self._service.rows(Grant)
            if row.batch_number in ids
        }


def _cost(row: Any) -> ModelCost:
    return row.grants, row.download_grants, row.upload_bytes


def _nth_id(number: int) -> str:
    return "acme" if number == 1 else f"acme~{number}"
