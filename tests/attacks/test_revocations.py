"""Revocations of two tenants in one bucket, while its policy is overwritten, refused and full.

After the next upkeep of storage that works, a revoked link is never served, a granted one always
is, nothing that has lapsed is left, and the statements of others are as they were.
"""

import json
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Denial
from tests.attacks.conftest import IS_LONG, SEED, AttackTable
from tests.support.builders.messages import DEMO, POLICY, Clock, grant_message
from tests.support.builders.services import InProcessService, build_context
from tests.support.revocations.model_bucket import (
    MAX_POLICY_BYTES,
    Fault,
    Killed,
    ModelBucket,
    ModelClients,
    key_of,
    policy_bytes,
)
from worker.base.database_engine import create_database_engine, read_transaction
from worker.revoke import proofs
from worker.revoke.kept_statements import keep_denials
from worker.revoke.policy_document import SID_PREFIX
from worker.revoke.revocation import Author, revoke
from worker.revoke.revocation_plan import RevocationPlan, plan_revocation
from worker.revoke.revocation_targets import Target
from worker.rules.tenant_config import Tenant, TenantConfig
from worker.shared.storage_requests import StorageRequest

STEPS = 5_000 if IS_LONG else 150
TENANTS = ("acme", "globex")
FOLDERS = ("a", "b", "c/d", "c/e")
FAULTS: tuple[Fault, ...] = ("refuse", "away", "kill_before", "kill_after")
LONG_NAME = "ä" * 440  # 880 bytes


@dataclass(frozen=True)
class Link:
    """A download that was issued."""

    tenant: str
    grant_id: str
    key: str
    expires_at: datetime
    message: dict[str, Any]


@dataclass(frozen=True)
class Named:
    """Objects that a revocation names, until a time."""

    text: str
    is_prefix: bool
    until: datetime

    def include(self, key: str, *, is_aws: bool) -> bool:
        """Return true if a key is named. Off AWS, * ? and $ stand for any character."""
        if len(key) < len(self.text) or (len(key) > len(self.text) and not self.is_prefix):
            return False
        pairs = zip(self.text, key, strict=False)
        return all(a == b or (a in "*?$" and not is_aws) for a, b in pairs)


class Machine:
    """Takes random steps, and notes what does not hold."""

    def __init__(self, engine: Engine, *, is_aws: bool) -> None:
        self.random = random.Random(SEED)
        self.clock, self.is_aws, self.engine = Clock(), is_aws, engine
        self.bucket = ModelBucket(self.clock, is_aws=is_aws)
        self.restart()
        demo = replace(DEMO, provider="aws" if is_aws else "other")
        policies = {name: {"demo": replace(POLICY, prefixes=(f"{name}/",))} for name in TENANTS}
        tenants = {name: Tenant(name, trust="queue", policies=policies[name]) for name in TENANTS}
        self.service.apply(TenantConfig({"demo": demo}, tenants))
        self.links: list[Link] = []
        self.denied: list[Named] = []  # by revocations that said that it is done
        self.unknown: list[Named] = []  # by those that said nothing, or that storage was away
        self.applied: set[str] = set()  # Sids that were seen in the policy
        self.foreign: list[dict[str, Any]] = []
        self.violations: list[str] = []

    def step(self) -> None:
        """Take a random step."""
        steps = [self.grant] * 5 + [self.revoke] * 4 + [self.overwrite] * 2 + [self.upkeep] * 3
        self.random.choice([*steps, self.revoke_much, self.wait, self.restart, self.fail])()

    def grant(self, count: int = 0) -> list[Link]:
        tenant = self.random.choice(TENANTS)
        keys = {self._key(tenant): None for _ in range(count or self.random.randint(1, 3))}
        seconds = self.random.choice((120, 300, 900))
        terms = {"kind": "download", "bucket": "demo", "expires_in": seconds}
        message = grant_message(list(keys), tenant=tenant, grant=terms)
        end = self.clock() + timedelta(seconds=seconds)
        items = self.service.issue(message)["items"]
        links = [Link(tenant, each["id"], key_of(each["url"]), end, message) for each in items]
        self.links += links
        return links

    def revoke(self) -> None:
        if not self._live():
            return
        link = self.random.choice(self.links)
        prefix = link.key[: link.key.rindex("/") + 2]
        others = [
            Target("batch", link.message["batch"]),
            Target("key", link.key, "demo"),
            Target("prefix", prefix, "demo"),
            Target("tenant", link.tenant),
        ]
        is_other = self.random.random() < 0.3
        self._revoke(self.random.choice(others) if is_other else Target("grant", link.grant_id))

    def revoke_much(self) -> None:
        """Revoke a batch with long keys. Its statement does not fit into a policy as it is."""
        self._revoke(Target("batch", self.grant(25)[0].message["batch"]))

    def overwrite(self) -> None:
        """Let another program write the policy: some of ours are gone, or changed."""
        ours = [each for each in self.bucket.statements if _is_ours(each)]
        if self.random.random() < 0.5:
            ours = self.random.sample(ours, self.random.randint(0, len(ours)))
        for statement in ours[: self.random.randint(0, 2)]:
            changes: list[dict[str, Any]] = [
                {"Effect": "Allow"},
                {"Resource": statement["Resource"][:1]},
                {"Action": ["s3:PutObject"]},
            ]
            statement.update(self.random.choice(changes))
        sizes = self.random.choice(([], [], [300], [300], [9_000], [19_500]))
        self.foreign = [_foreign(size) for size in sizes]
        kept = [*self.foreign, *ours]
        if policy_bytes(kept) > MAX_POLICY_BYTES:
            kept = self.foreign
        self.bucket.statements = kept
        if self.random.random() < 0.5:  # before a revocation repairs it by chance
            self.upkeep()

    def wait(self) -> None:
        self.clock.forward(seconds=self.random.choice((30, 120, 600)))

    def restart(self) -> None:
        """Go on with nothing but the database."""
        self.service = InProcessService(
            build_context(self.engine, ModelClients(self.bucket), self.clock)
        )

    def fail(self) -> None:
        """Let storage refuse or be away, or kill the process in the middle of a change."""
        self.bucket.fault = self.random.choice(FAULTS)
        self.random.choice((self.revoke, self._keep))()
        self.bucket.fault = "none"

    def upkeep(self) -> None:
        self._keep()
        self._check()

    def _keep(self) -> None:
        with suppress(Killed):
            keep_denials(self.service.context)

    def _check(self) -> None:
        rows = self._rows()
        left = self._sids()
        if left - set(rows):
            self.violations.append("a statement is left that denies no live grant")
        if [each for each in self.bucket.statements if not _is_ours(each)] != self.foreign:
            self.violations.append("a statement of others was changed")
        has_room = self._has_room(rows)
        for link in self._live():
            is_denied = self.bucket.denies(link.key)
            if self._is_named(self.denied, link):
                if has_room and not is_denied:
                    self.violations.append(f"a revoked link is served: {link.key[:40]}")
            elif is_denied and not self._is_named(self.unknown, link):
                self.violations.append(f"a granted link is refused: {link.key[:40]}")
        self.applied |= left

    def _sids(self) -> set[str]:
        return {each["Sid"] for each in self.bucket.statements if _is_ours(each)}

    def _has_room(self, rows: dict[str, Any]) -> bool:
        """Return true if all statements fit, apart from those that have never fit."""
        known = [
            row
            for sid, row in rows.items()
            if sid in self.applied or policy_bytes([*self.foreign, row]) <= MAX_POLICY_BYTES
        ]
        return policy_bytes([*self.foreign, *known]) <= MAX_POLICY_BYTES

    def _revoke(self, target: Target) -> None:
        context = self.service.context
        plan = plan_revocation(target, context)
        before = set(self._rows())
        try:
            result = revoke(plan, Author("ann", None), context, lambda _: 0)
        except Killed:
            self.unknown += _named(plan)
        else:
            if result.denied:
                self.denied += _named(plan)
                self.applied |= self._sids()
            elif self.bucket.fault == "away":
                self.unknown += _named(plan)
            elif set(self._rows()) - before:
                self.violations.append("a revocation that failed leaves a statement behind")
        signed = {link.key for grant in plan.targeted for link in self._sign_again(grant.id)}
        if signed & {grant.object_key for grant in plan.targeted}:
            self.violations.append("a revoked grant is signed again")

    def _sign_again(self, grant_id: str) -> list[Link]:
        """Send the message of a grant again; return what is signed of that grant."""
        link = next(each for each in self.links if each.grant_id == grant_id)
        items = self.service.issue(link.message)["items"]
        return [link for each in items if each.get("id") == grant_id and "url" in each]

    def _rows(self) -> dict[str, Any]:
        query = select(Denial.sid, Denial.statement).where(Denial.lapses_at > self.clock())
        with read_transaction(self.engine) as connection:
            return {sid: json.loads(statement) for sid, statement in connection.execute(query)}

    def _live(self) -> list[Link]:
        self.links = [link for link in self.links if link.expires_at > self.clock()]
        return self.links

    def _is_named(self, objects: list[Named], link: Link) -> bool:
        now = self.clock()
        return any(
            each.until > now and each.include(link.key, is_aws=self.is_aws) for each in objects
        )

    def _key(self, tenant: str) -> str:
        name = self.random.choice((*[""] * 7, LONG_NAME))
        special = self.random.choice(("", "", "*", "?", "$"))
        number = self.random.randint(0, 400)
        return f"{tenant}/{self.random.choice(FOLDERS)}/{name}{number}{special}.pdf"


def _named(plan: RevocationPlan) -> Iterator[Named]:
    for denial in plan.denials:
        for key in denial.objects.keys:
            yield Named(key, is_prefix=False, until=denial.lapses_at)
        for prefix in denial.objects.prefixes:
            yield Named(prefix, is_prefix=True, until=denial.lapses_at)


def _is_ours(statement: dict[str, Any]) -> bool:
    return str(statement["Sid"]).startswith(SID_PREFIX)


def _foreign(size: int) -> dict[str, Any]:
    resource = "arn:aws:s3:::valetkey-demo/theirs/" + "x" * size
    statement = {"Sid": "Theirs", "Effect": "Deny", "Principal": "*", "Action": ["s3:PutObject"]}
    return statement | {"Resource": [resource]}


@pytest.fixture(params=["aws", "other"])
def machine(
    request: pytest.FixtureRequest, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machine]:
    """The service in front of a bucket in memory: AWS, or a server that ignores conditions."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    engine = create_database_engine(database_url)
    machine = Machine(engine, is_aws=request.param == "aws")

    def use(link: StorageRequest, _endpoint: str | None) -> int:
        return 403 if machine.bucket.denies(key_of(link.url)) else 200

    monkeypatch.setattr(proofs, "_use_link", use)
    monkeypatch.setattr(proofs, "_LINK_SECONDS", 0)
    yield machine
    engine.dispose()


@pytest.mark.timeout(3_600 if IS_LONG else 300)
def test_what_is_revoked_is_never_served_after_the_next_upkeep_and_what_is_granted_always(
    machine: Machine, attack_table: AttackTable
) -> None:
    for _ in range(STEPS):
        machine.step()
    attack_table.add("revocations of two tenants in one bucket", STEPS, len(machine.violations))
    assert machine.violations == [], f"seed {SEED}"
