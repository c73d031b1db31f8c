"""A database that was restored from a backup of before a revocation."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from tests.integration.revoke.conftest import KEY, Links
from tests.support.builders.messages import grant_message
from tests.support.builders.services import build_context
from tests.support.cli.operator import ON_SQLITE
from tests.support.s3.http_requests import status
from tests.support.servers.databases import open_engine
from worker.aws.s3_clients import S3Clients
from worker.backup.backup_commands import backup
from worker.revoke.kept_statements import keep_denials

pytestmark = ON_SQLITE


class Restored(NamedTuple):
    """The restored service, and the request that was revoked after its backup, with the link."""

    links: Links
    message: dict[str, Any]
    grant: dict[str, Any]


@pytest.fixture
def restored(links: Links, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Restored]:
    file, message = tmp_path / "backup.db", grant_message([KEY])
    [grant] = links.issue(message)["items"]
    assert CliRunner().invoke(backup, [str(file)]).exit_code == 0
    links.revoke(grant)
    url = f"sqlite:///{file}"
    monkeypatch.setenv("VALETKEY_DATABASE_URL", url)
    with open_engine(url) as engine:
        later = Links(build_context(engine, S3Clients(), links.clock), links.clock)
        later.client, later.bucket, later.config = links.client, links.bucket, links.config
        yield Restored(later, message, grant)


def test_storage_goes_on_refusing_a_link_whose_revocation_is_lost(restored: Restored) -> None:
    keep_denials(restored.links.context)
    assert len(restored.links.statements()) == 1
    assert status(restored.grant) == 403


def test_a_grant_whose_revocation_is_lost_is_signed_again_until_it_is_revoked_again(
    restored: Restored,
) -> None:
    links, message = restored.links, restored.message
    [grant] = links.issue(message)["items"]
    assert status(grant) == 403
    links.run("--key", f"s3://demo/{KEY}", "--yes")
    assert links.issue(message)["items"][0]["code"] == "revoked"
