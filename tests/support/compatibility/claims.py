"""The expected result of each operation of the compatibility matrix."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.support.compatibility.grants import (
    assert_stored,
    read_manifest,
    store_parts,
    use_grant,
)
from tests.support.compatibility.producers import Producer
from tests.support.compatibility.services import SECRET, Servers, tenant_of
from tests.support.servers.waiting import wait_until

KINDS = ("download", "upload", "put", "multipart")
MONTHLY_GRANTS = 1_000_000


@dataclass(frozen=True)
class Cell:
    """A cell of the matrix: who made the request and how, and the prefix of its objects."""

    producer: Producer
    servers: Servers
    style: str
    trust: str
    prefix: str

    @property
    def is_command(self) -> bool:
        """True if the command line made the request."""
        return self.style == "CLI"


def _check_granted(kind: str, result: Any, cell: Cell) -> None:
    assert result["key"] == f"{cell.prefix}/{kind}"
    assert result["limited_by"] == "request"
    use_grant(kind, result, cell.servers)


def _check_parts(result: Any, cell: Cell) -> None:
    if cell.is_command:  # it has sent the parts itself
        assert result["exit"] == 0
        # The frozen release writes no line about an upload that succeeded.
        assert result["stderr"] == "" or result["stderr"].startswith("stored ")
        assert_stored(f"{cell.prefix}/parts", cell.servers)
    else:
        store_parts(result["upload"], result["parts"], cell.servers)


def _check_refused_by_policy(kind: str, result: Any, _cell: Cell) -> None:
    refused = {name: result[name] for name in ("code", "field", "key")}
    assert refused == {
        "code": "key_outside_prefix",
        "field": "items[0].key",
        "key": f"elsewhere/{kind}",
    }


def _check_parts_refused(result: Any, _cell: Cell) -> None:
    assert [(item["code"], item["field"]) for item in result] == [("upload_unknown", "grant.of")]


def _check_refused_by_quota(result: Any, _cell: Cell) -> None:
    quota = result["quota"]
    values = [quota[name] for name in ("metric", "window", "limit", "used", "asked")]
    assert (result["code"], values) == ("quota_exceeded", ["grants", "month", 1, 1, 1])


def _check_usage(result: Any, _cell: Cell) -> None:
    limits = {(quota["metric"], quota["window"]): quota["limit"] for quota in result}
    assert limits == {("grants", "month"): MONTHLY_GRANTS, ("upload_bytes", "month"): 1024**4}


def _check_cancel(result: Any, cell: Cell) -> None:
    if cell.is_command:
        assert [(line["issued"], line["released"]) for line in result] == [(0, 0)]
        return
    counts = [(result[when]["issued"], result[when]["released"]) for when in ("after", "before")]
    assert counts == [(2, 0), (0, 0)]
    assert [item["code"] for item in result["rest"]] == ["batch_closed"] * 2


def _check_reopened(result: Any, _cell: Cell) -> None:
    assert result["again"] == result["first"]
    assert [item.get("code") for item in result["first"]] == [None] * 4 + ["key_outside_prefix"]
    assert (result["counts"], len(result["quotas"])) == ([5, 4, 1, 0], 2)


def _check_explain(result: Any, cell: Cell) -> None:
    if cell.is_command:
        (line,) = result
        assert line["decision"] == "issue"
        return
    refusals = [rule["refusal"]["code"] for rule in result["refused"]["rules"] if rule["refusal"]]
    decisions = [result[name]["decision"] for name in ("granted", "refused")]
    assert (decisions, refusals) == (["issue", "refuse"], ["key_outside_prefix"])


def _check_manifest(result: Any, cell: Cell) -> None:
    url = result["url"] if cell.is_command else result["grant"]["url"]
    codes = [line.get("code") for line in read_manifest(result, url)]
    assert codes == [None] * 4 + ([None] if cell.is_command else ["key_outside_prefix"])


def _check_webhook(result: Any, cell: Cell) -> None:
    outcome = received_outcome(cell.producer, cell.servers, result["id"], cell.trust)
    assert outcome["items"][0]["url"] == result["url"]


def received_outcome(
    producer: Producer, servers: Servers, grant_id: str, trust: str
) -> dict[str, Any]:
    """Wait for the webhook with a grant, and let a producer verify it."""
    receiver, path = servers.receiver, f"/{tenant_of(trust)}"

    def find() -> list[int]:
        bodies = list(enumerate(receiver.bodies))
        return [number for number, body in bodies if f'"{grant_id}"'.encode() in body]

    number = wait_until(find, what="the webhook arrives")[0]
    assert receiver.paths[number] == path
    outcome: dict[str, Any] = producer.call(
        "verify",
        body=receiver.bodies[number].decode(),
        headers=receiver.headers[number],
        secret=SECRET,
    )
    return outcome


def _check_bulk(result: Any, cell: Cell) -> None:
    assert [line["key"] for line in result] == [f"{cell.prefix}/bulk-{n}" for n in range(5)]
    assert {line["method"] for line in result} == {"PUT"}


CLAIMS: Mapping[str, Callable[[Any, Cell], None]] = {
    **{f"{kind}: granted": partial(_check_granted, kind) for kind in KINDS},
    "parts: granted": _check_parts,
    **{f"{kind}: refused by policy": partial(_check_refused_by_policy, kind) for kind in KINDS},
    "parts: refused by policy": _check_parts_refused,
    **{f"{kind}: refused by quota": _check_refused_by_quota for kind in KINDS},
    "usage": _check_usage,
    "cancel": _check_cancel,
    "reopened batch": _check_reopened,
    "explain": _check_explain,
    "manifest": _check_manifest,
    "webhook": _check_webhook,
    "bulk file": _check_bulk,
}
"""The check of each operation's result."""

NOT_COMMANDS = ("parts: refused by policy", "reopened batch")
"""The operations that the command line does not have."""
COMMANDS_ONLY = ("bulk file",)
