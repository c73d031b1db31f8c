"""Revocations of two tenants in one bucket, while its policy is overwritten, refused and full.

After the next upkeep a revoked link is never served, and a granted one always is.
"""

import json
import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Denial
from tests.attacks.conftest import IS_LONG, SEED, AttackTable
from tests.support.builders.messages import POLICY, Clock, grant_message
from tests.support.builders.services import InProcessService, build_context
from tests.support.revocations.model_bucket import (
    MAX_POLICY_BYTES,
    Fault,
    Killed,
    ModelBucket,
    ModelClients,
    key_of,
)
from worker.core.revocation.bucket_policy import SID_PREFIX
from worker.core.revocation.targets import Target
from worker.core.tenants.config import Bucket, Tenant, TenantConfig
from worker.db import tenants
from worker.db.engine import create_database_engine, read_transaction, write_transaction
from worker.errors import Malformed, Transient
from worker.usecases.revocation import proof
from worker.usecases.revocation.plan import plan_revocation
from worker.usecases.revocation.results import Author
from worker.usecases.revocation.revoke import revoke
from worker.usecases.upkeep.denials import keep_denials

STEPS = 6_000 if IS_LONG else 400
TENANTS = ("acme", "globex")
AUTHOR = Author("ann", None)
FAULTS: tuple[Fault, ...] = ("refuse", "away", "kill_before", "kill_after")
_LONG = "ä" * 440  # 880 bytes


class Link:
    """An issued download."""

    def __init__(self, tenant: str, item: dict[str, Any], expires_at: Any) -> None:
        self.tenant, self.id, self.key = tenant, item["id"], key_of(item["url"])
        self.message: dict[str, Any] = {}
        self.expires_at = expires_at


class Machine:
    """Random steps, and what has to hold after each upkeep of storage that works."""

    def __init__(self, engine: Engine, is_aws: bool, seed: int) -> None:  # noqa: FBT001 - a parameter of the test
        self.random = random.Random(seed)  # noqa: S311 - no secret
        self.clock, self.is_aws = Clock(), is_aws
        self.bucket = ModelBucket(self.clock, is_aws=is_aws)
        self.service = InProcessService(
            build_context(engine, ModelClients(self.bucket), self.clock)
        )
        provider: Any = "aws" if is_aws else "other"
        demo = Bucket("demo", "valetkey-demo", "us-east-1", "path", "http://127.0.0.1:9")
        demo = Bucket(**{**_fields(demo), "provider": provider})
        self.service.apply(
            TenantConfig(
                {"demo": demo},
                {
                    name: Tenant(name, trust="queue", policies={"demo": _policy(name)})
                    for name in TENANTS
                },
            )
        )
        self.links: list[Link] = []
        self.denied: list[tuple[str, bool, Any]] = []  # revoked objects, until a time
        self.maybe: list[tuple[str, bool, Any]] = []  # nobody reported whether they are denied
        self.foreign: list[dict[str, Any]] = []
        self.violations: list[str] = []
        self.checks = 0

    def step(self) -> None:
        steps = [self.grant] * 5 + [self.revoke] * 4 + [self.overwrite] * 2 + [self.upkeep] * 3
        steps += [self.revoke_many, self.wait, self.restart, self.fail]
        self.random.choice(steps)()

    # steps

    def grant(self, count: int | None = None, key: str = "") -> list[Link]:
        tenant = self.random.choice(TENANTS)
        keys = [key or self._key(tenant) for _ in range(count or self.random.randint(1, 3))]
        seconds = self.random.choice((120, 300, 900))
        terms = {"kind": "download", "bucket": "demo", "expires_in": seconds}
        message = grant_message(list(dict.fromkeys(keys)), tenant=tenant, grant=terms)
        items = self.service.issue(message)["items"]
        end = self.clock() + timedelta(seconds=seconds)
        links = [Link(tenant, item, end) for item in items]
        for link in links:
            link.message = message
        self.links += links
        return links

    def revoke_many(self) -> None:
        """Revoke a batch with long keys, which does not fit into any policy as it is."""
        if links := self.grant(25):
            self._revoke(Target("batch", links[0].message["batch"]))

    def revoke(self) -> None:
        live = self._live()
        if not live:
            return
        link = self.random.choice(live)
        folder = link.key[: link.key.rfind("/") + 1]
        self._revoke(
            self.random.choice(
                [
                    Target("grant", link.id),
                    Target("batch", link.message["batch"]),
                    Target("key", link.key, "demo"),
                    Target("prefix", folder + link.key[len(folder) :][:2], "demo"),
                    Target("tenant", link.tenant),
                ]
                if self.random.random() < 0.3
                else [Target("grant", link.id)]
            )
        )

    def overwrite(self) -> None:
        """Another program writes the policy: without ours, or with a changed one of ours."""
        kind = self.random.choice(("none", "small", "large", "ours", "ours"))
        ours = [each for each in self.bucket.statements if each["Sid"].startswith(SID_PREFIX)]
        if kind == "ours":
            for each in ours[: self.random.randint(0, 2)]:
                self.random.choice(
                    (
                        lambda s=each: s.update(Effect="Allow"),
                        lambda s=each: s.update(Resource=s["Resource"][:1]),
                        lambda s=each: s.update(Action=["s3:PutObject"]),
                    )
                )()
        else:
            size = {"none": 0, "small": 300, "large": self.random.choice((9_000, 19_500))}[kind]
            self.foreign = [_foreign(size)] if size else []
            ours = self.random.sample(ours, self.random.randint(0, len(ours)))
        statements = [*self.foreign, *ours]
        text = json.dumps({"Version": "2012-10-17", "Statement": statements}, ensure_ascii=False)
        if len(text.encode()) > MAX_POLICY_BYTES:
            text = json.dumps({"Version": "2012-10-17", "Statement": self.foreign})
        self.bucket.policy = text if json.loads(text)["Statement"] else None

    def wait(self) -> None:
        self.clock.forward(seconds=self.random.choice((30, 120, 600)))

    def restart(self) -> None:
        """Begin again with nothing but the database."""
        context = self.service.context
        self.service = InProcessService(
            build_context(context.engine, ModelClients(self.bucket), self.clock)
        )

    def fail(self) -> None:
        """Let storage refuse, be away or the process be killed, in the next revocation or upkeep."""
        self.bucket.fault = self.random.choice(FAULTS)
        if self.random.random() < 0.7:
            self.revoke()
        else:
            self._keep()
        self.bucket.fault = "none"

    def upkeep(self) -> None:
        self._keep()
        self._check()

    # what has to hold

    def _check(self) -> None:
        self.checks += 1
        now = self.clock()
        rows = self._denials()
        for statement in self.bucket.statements:
            sid = statement["Sid"]
            if sid.startswith(SID_PREFIX) and rows.get(sid) is None:
                self._violation("a statement is left that denies nothing", sid)
        theirs = [s for s in self.bucket.statements if not s["Sid"].startswith(SID_PREFIX)]
        if theirs != self.foreign:
            self._violation("a statement of others was changed", "")
        denied = [each for each in self.denied if each[2] > now]
        maybe = [each for each in self.maybe if each[2] > now]
        has_room = self._have_room(list(rows.values()))
        for link in self._live():
            is_denied = self.bucket.denies(link.key)
            if _names(denied, link.key, is_aws=self.is_aws):
                if not is_denied and has_room:
                    self._violation("a revoked link is served", link.key)
            elif is_denied and not _names(maybe, link.key, is_aws=self.is_aws):
                self._violation("a granted link is refused", link.key)

    def _have_room(self, statements: list[dict[str, Any]]) -> bool:
        """Return true if all statements fit that would fit alone."""
        fit = [each for each in statements if _size([*self.foreign, each]) <= MAX_POLICY_BYTES]
        return (
            _size([*self.foreign, *fit]) <= MAX_POLICY_BYTES
            and fit == statements
            or (
                _size([*self.foreign, *fit]) <= MAX_POLICY_BYTES and not self._lost(statements, fit)
            )
        )

    def _lost(self, statements: list[dict[str, Any]], fit: list[dict[str, Any]]) -> bool:
        """Return true if a statement that was reported as applied does not fit any more."""
        sids = {each["Sid"] for each in fit}
        return any(each["Sid"] in self.reported and each["Sid"] not in sids for each in statements)

    reported: set[str] = set()  # noqa: RUF012 - replaced

    def _violation(self, what: str, about: str) -> None:
        self.violations.append(f"{what}: {about[:60]}")

    # helpers

    def _revoke(self, target: Target) -> None:
        context = self.service.context
        try:
            plan = plan_revocation(target, context)
        except Transient:
            return
        if plan.is_empty:
            return
        named = [
            (text, is_prefix, lever.lapses_at)
            for lever in plan.denials
            if lever.denial
            for texts, is_prefix in (
                (lever.denial.objects.keys, False),
                (lever.denial.objects.prefixes, True),
            )
            for text in texts
        ]
        before = set(self._denials())
        try:
            result = revoke(plan, AUTHOR, context, lambda _: 0)
        except Killed:
            self.maybe += named
        else:
            if result.denied:
                self.denied += named
                self.reported = self.reported | (set(self._denials()) - before)
            elif set(self._denials()) - before:
                self.maybe += named
                if self.bucket.fault != "away":
                    self._violation("a revocation that failed leaves a statement behind", "")
        for link in self.links:
            if link.message["batch"] == target.value and link.tenant == "acme":
                self._check_not_signed(link)
                break

    def _check_not_signed(self, link: Link) -> None:
        item = next(
            each
            for each, key in zip(
                self.service.issue(link.message).get("items", [{}]),
                [item["key"] for item in link.message["items"]],
                strict=False,
            )
            if key == link.key
        )
        if "url" in item:
            self._violation("a revoked grant is signed again", link.key)

    def _keep(self) -> None:
        try:
            keep_denials(self.service.context)
        except (Killed, Malformed, Transient):
            pass

    def _live(self) -> list[Link]:
        self.links = [link for link in self.links if link.expires_at > self.clock()]
        return self.links

    def _denials(self) -> dict[str, dict[str, Any]]:
        query = select(Denial.sid, Denial.statement).where(Denial.lapses_at > self.clock())
        with read_transaction(self.service.engine) as connection:
            return {sid: json.loads(statement) for sid, statement in connection.execute(query)}

    def _key(self, tenant: str) -> str:
        folder = self.random.choice(("a", "b", "c/d", "c/e"))
        name = self.random.choice(("", "", "", _LONG))
        special = self.random.choice(("", "", "*", "?", "$"))
        return f"{tenant}/{folder}/{name}{self.random.randint(0, 400)}{special}.pdf"


def _fields(bucket: Bucket) -> dict[str, Any]:
    return {name: getattr(bucket, name) for name in Bucket.__dataclass_fields__}


def _policy(tenant: str) -> Any:
    fields = {name: getattr(POLICY, name) for name in type(POLICY).__dataclass_fields__}
    return type(POLICY)(**{**fields, "prefixes": (f"{tenant}/",)})


def _foreign(size: int) -> dict[str, Any]:
    resource = ["arn:aws:s3:::valetkey-demo/theirs/" + "x" * size]
    action = ["s3:PutObject"]
    return {"Sid": "Theirs", "Effect": "Deny", "Principal": "*"} | {
        "Action": action,
        "Resource": resource,
    }


def _size(statements: list[dict[str, Any]]) -> int:
    policy = {"Version": "2012-10-17", "Statement": statements}
    return len(json.dumps(policy, separators=(",", ":"), ensure_ascii=False).encode())


def _names(objects: list[tuple[str, bool, Any]], key: str, *, is_aws: bool) -> bool:
    """Return true if a revocation names a key; off AWS, * ? and $ stand for any character."""

    def begins(text: str) -> bool:
        pairs = zip(text, key, strict=False)
        return len(key) >= len(text) and all(
            a == b or (a in "*?$" and not is_aws) for a, b in pairs
        )

    return any(
        begins(text) and (is_prefix or len(text) == len(key)) for text, is_prefix, _ in objects
    )


@pytest.fixture(params=[True, False], ids=["aws", "other"])
def machine(
    request: pytest.FixtureRequest,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Machine]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    engine = create_database_engine(database_url)
    machine = Machine(engine, request.param, SEED)
    monkeypatch.setattr(
        proof,
        "_use",
        lambda link: 403 if machine.bucket.denies(key_of(link.request.url)) else 200,
    )
    monkeypatch.setattr(proof, "_PROOF_SECONDS", 0)
    yield machine
    engine.dispose()


def test_what_is_revoked_is_never_served_after_the_next_upkeep_and_what_is_granted_always(
    machine: Machine, attack_table: AttackTable
) -> None:
    for _ in range(STEPS):
        machine.step()
    attack_table.add("revocations of two tenants in one bucket", STEPS, len(machine.violations))
    assert machine.violations == [], f"seed {SEED}, {machine.checks} checks"
