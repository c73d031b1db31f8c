"""Revocations that are refused, or find nothing."""

import pytest

from models import Revocation
from tests.integration.revoke.conftest import KEY, Links, check
from worker.cli.found_service import EXPLICIT_SETTINGS
from worker.dev.embedded_servers import Storage

# The refusals depend on no database.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

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
        (("--credentials", "AKIDUNKNOWN"), "no grant was signed with this access key"),
        (("--batch", "x"), "this is not the id of a batch"),
        (("--grant", "x.1"), "an id of a grant is a batch id, a dot and a number"),
        (("--key", "acme/a.pdf"), "write s3://PROFILE/KEY"),
        (("--prefix", "s3://demo/"), "the prefix is empty: write s3://PROFILE/PREFIX, or"),
        (("--key", "s3://dem/a"), "there is no bucket profile 'dem': did you mean 'demo'?"),
        (("--tenant", ""), "it is empty"),
        (("--tenant", "acme", "--reason", "a\nb"), "write 1 to 200 characters on one line"),
        (("--tenant", "acme", "--reason", "x" * 201), "write 1 to 200 characters on one line"),
    ],
)
def test_a_wrong_use_says_what_to_write(links: Links, words: tuple[str, ...], message: str) -> None:
    check(links.run(*words), 2, message)


def test_nothing_to_revoke_is_said(links: Links) -> None:
    check(links.run("--tenant", "acme", "--yes"), 1, "there is nothing to revoke")


def test_a_grant_that_expired_is_nothing_to_revoke(links: Links) -> None:
    links.clock.forward(hours=-1)  # the command's own clock is not the service's
    [grant] = links.grant(KEY)
    check(links.run("--grant", grant["id"]), 1, "there is nothing to revoke")


def test_no_link_is_printed(links: Links) -> None:
    [grant] = links.grant(KEY)
    output = links.revoke(grant).output
    assert "X-Amz" not in output
    assert grant["url"] not in output


def test_the_folder_of_a_dev_that_does_not_run_is_refused(
    links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in EXPLICIT_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    check(links.run("--tenant", "acme", "--yes"), 1, "No setting names a service")


def test_an_empty_reason_is_none(links: Links) -> None:
    links.revoke(links.grant(KEY)[0], "--reason", "")
    assert links.rows(Revocation.reason) == [(None,)]


def test_an_interruption_says_that_the_revocation_is_recorded(
    links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("worker.revoke.revocation.keep_statements", interrupt)
    result = links.revoke(links.grant(KEY)[0])
    assert (result.exit_code, "Interrupted: it is recorded" in result.stderr) == (130, True)


def test_the_plan_fits_into_80_columns_and_names_the_host_of_the_bucket(
    links: Links, seaweed: Storage
) -> None:
    [grant] = links.grant(KEY)
    links.grant(KEY)
    lines = links.run("--grant", grant["id"]).output.splitlines()
    assert f"      at 127.0.0.1:{seaweed.port}" in lines
    assert {"      ends 1 grant of acme", "      and 1 other grant of acme"} <= set(lines)
    assert max(len(line) for line in lines if not line.startswith("        ")) <= 80
