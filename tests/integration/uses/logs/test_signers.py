"""Downloads whose URL was signed by an access key that did not sign the grant."""

from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import Engine

from tests.integration.conftest import ApplyConfig
from tests.support.builders import services
from tests.support.builders.messages import Clock, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.uses.access_logs import aws_line
from tests.support.uses.log_imports import KEY, Import, numbers
from worker.aws.clients import S3Clients

OTHER_SIGNER = {"other_signer": 1}


def query_of(service: InProcessService, message: Any) -> str:
    url: str = service.issue(message)["items"][0]["url"]
    return urlsplit(url).query


@pytest.fixture
def message(clock: Clock, apply_config: ApplyConfig) -> Any:
    """A request for a download, just before the lines of the logs."""
    apply_config(tenant_config())
    clock.time = clock.time - timedelta(seconds=1)
    return grant_message([KEY])


@pytest.fixture
def ignored(run: Import, tmp_path: Path) -> Any:
    """A function that imports a download with a query, and returns why it is none."""

    def ignored(query: str) -> Any:
        name = sha256(query.encode()).hexdigest()
        log = tmp_path / name
        log.write_bytes(aws_line(query=query, request_id=name))
        result = numbers(run(log, "--json"))
        assert result["downloads"] == 1 - len(result["ignored"])
        return result["ignored"]

    return ignored


def test_a_link_of_the_service_is_a_download(
    service: InProcessService, message: Any, ignored: Any
) -> None:
    assert ignored(query_of(service, message)) == {}


def test_a_url_that_another_key_signed_is_no_download_of_the_grant_that_it_names(
    service: InProcessService, message: Any, ignored: Any
) -> None:
    query = query_of(service, message)
    assert ignored(query.replace("AKIDEXAMPLE", "AKIDSTRANGER")) == OTHER_SIGNER


@pytest.mark.parametrize("name", ["X-Amz-Credential", "x-amz-credential", "X-Amz-%43redential"])
def test_a_repeated_signer_hides_no_other_one(
    service: InProcessService, message: Any, ignored: Any, name: str
) -> None:
    scope = "20261124%2Fus-east-1%2Fs3%2Faws4_request"
    query = f"{name}=AKIDSTRANGER%2F{scope}&{query_of(service, message)}"
    assert ignored(query) == OTHER_SIGNER


def test_a_url_of_the_older_signature_is_no_grant_of_the_service(
    service: InProcessService, message: Any, ignored: Any
) -> None:
    grant_id = service.issue(message)["items"][0]["id"]
    query = f"x-grant-id={grant_id}&AWSAccessKeyId=AKIDSTRANGER&Expires=1&Signature=a"
    assert ignored(query) == OTHER_SIGNER


def test_a_signer_that_storage_masks_tells_nothing(
    service: InProcessService, message: Any, ignored: Any
) -> None:
    grant_id = service.issue(message)["items"][0]["id"]
    assert ignored(f"x-grant-id={grant_id}&X-Amz-Credential=HIDDEN") == {}


def test_each_of_the_keys_that_signed_a_grant_is_its_signer(
    engine: Engine,
    service: InProcessService,
    clock: Clock,
    message: Any,
    ignored: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = query_of(service, message)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDLATER")
    later = query_of(services.build_service(engine, S3Clients(), clock), message)
    assert "AKIDLATER" in later
    assert [ignored(first), ignored(later)] == [{}, {}]
