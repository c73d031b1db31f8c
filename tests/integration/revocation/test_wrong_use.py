"""Revocations that are refused, or find nothing."""

import pytest
from sqlalchemy import Engine, select

from models import Revocation
from tests.integration.revocation.conftest import KEY, Revoke, issue
from tests.support.builders.messages import Clock
from tests.support.builders.services import InProcessService
from worker.db.engine import read_transaction
from worker.devstack.storage import Storage
from worker.setting_names import EXPLICIT_SETTINGS

UNKNOWN = "01a21b56-be30-7f7e-b432-9ffae038cc56"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Give one of --grant, --batch, --key, --prefix, --tenant, --credentials."),
        (("--batch", "x", "--tenant", "acme"), "Give one of --grant"),
        (("--grant", "b.0", "--grant", "b.1"), "Run the command once for each target."),
        (("--tenant", "acmee"), "did you mean 'acme'?"),
        (("--batch", UNKNOWN), "the audit log has no such batch"),
        (("--grant", f"{UNKNOWN}.0"), "the audit log has no such grant"),
        (("--grant", f"acmee/{UNKNOWN}.0"), "did you mean 'acme'?"),
        (("--credentials", "AKIDUNKNOWN"), "no grant was signed with this access key"),
        (("--batch", "x"), "this is not the id of a batch"),
        (("--grant", "x.1"), "an id of a grant is a batch id, a dot and a number"),
        (("--key", "acme/a.pdf"), "write s3://PROFILE/KEY"),
        (("--prefix", "s3://demo/"), "the prefix is empty: write s3://PROFILE/PREFIX, or"),
        (("--key", "s3://dem/a"), "there is no bucket profile 'dem': did you mean demo?"),
        (("--tenant", ""), "it is empty"),
        (("--tenant", "acme", "--reason", "a\nb"), "write 1 to 200 characters on one line"),
        (("--tenant", "acme", "--reason", "x" * 201), "write 1 to 200 characters on one line"),
    ],
)
def test_a_wrong_use_says_what_to_write(run: Revoke, words: tuple[str, ...], message: str) -> None:
    result = run(*words)
    assert (result.exit_code, message in result.output) == (2, True)


def test_nothing_to_revoke_is_said(run: Revoke) -> None:
    result = run("--tenant", "acme", "--yes")
    assert (result.exit_code, "there is nothing to revoke" in result.output) == (1, True)


def test_no_link_is_printed(run: Revoke, service: InProcessService) -> None:
    [grant] = issue(service, KEY)
    output = run("--grant", grant["id"], "--yes").output
    assert "X-Amz" not in output
    assert grant["url"] not in output


def test_a_grant_that_expired_is_nothing_to_revoke(
    run: Revoke, service: InProcessService, clock: Clock
) -> None:
    clock.forward(hours=-1)  # the command's own clock is not the service's
    [grant] = issue(service, KEY)
    result = run("--grant", grant["id"])
    assert (result.exit_code, "there is nothing to revoke" in result.output) == (1, True)


def test_the_folder_of_a_dev_that_does_not_run_is_refused(
    run: Revoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in EXPLICIT_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    result = run("--tenant", "acme", "--yes")
    assert (result.exit_code, "No setting names a service" in result.output) == (1, True)


def test_an_empty_reason_is_none(run: Revoke, service: InProcessService, engine: Engine) -> None:
    [grant] = issue(service, KEY)
    run("--grant", grant["id"], "--reason", "", "--yes")
    with read_transaction(engine) as connection:
        assert connection.scalars(select(Revocation.reason)).all() == [None]


def test_an_interruption_says_that_the_revocation_is_recorded(
    run: Revoke, service: InProcessService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("worker.usecases.revocation.revoke.change_bucket", interrupt)
    [grant] = issue(service, KEY)
    result = run("--grant", grant["id"], "--yes")
    assert (result.exit_code, "Interrupted: it is recorded" in result.stderr) == (130, True)


def test_the_plan_fits_into_80_columns_and_names_the_host_of_the_bucket(
    run: Revoke, service: InProcessService, seaweed: Storage
) -> None:
    [grant] = issue(service, KEY)
    issue(service, KEY)
    lines = run("--grant", grant["id"]).output.splitlines()
    assert f"      at 127.0.0.1:{seaweed.port}" in lines
    assert {"      ends 1 grant of acme", "      and 1 other grant of acme"} <= set(lines)
    assert max(len(line) for line in lines if not line.startswith("        ")) <= 80
