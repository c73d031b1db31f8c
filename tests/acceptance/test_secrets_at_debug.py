"""The logs of real workers at DEBUG, while they sign with a role session of each tenant."""

import json
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

import httpx
import pytest

from tests.acceptance.conftest import ACME_KEY, SECRET, Service, running_service
from tests.support.s3.doubles import Role
from tests.support.servers.external import KEYS
from tests.support.servers.waiting import wait_until
from valetkey.crypto.keys import dump_private_key
from worker.dev.data_folder import write_json
from worker.dev.embedded_servers import Storage
from worker.dev.stack import Commands

ROLE, BUCKET, EXTERNAL_ID = "debug", "valetkey-debug", "agreed-with-acme-5ec2e7"
PROFILE = """
[buckets.assumed]
bucket = "{bucket}"
region = "us-east-1"
addressing = "path"
endpoint = "{endpoint}"
role_arn = "arn:aws:iam::000000000000:role/{role}"
external_id = "{external_id}"
[tenants.acme.allow.assumed]
prefixes = ["acme/"]
max_size = "1MiB"
kinds = ["download", "upload", "put", "multipart"]
"""


def at_debug(role: str) -> tuple[str, ...]:
    return sys.executable, "-m", "worker", "run", "--only", role, "--loglevel", "DEBUG"


@pytest.fixture(scope="module")
def service(ministack: Storage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with its log at DEBUG, and KOMBU_LOG_DEBUG, which logs messages."""
    Role(ministack, ROLE, Condition={"StringEquals": {"sts:ExternalId": EXTERNAL_ID}})
    ministack.client().create_bucket(Bucket=BUCKET)
    folder, endpoint = tmp_path_factory.mktemp("debug"), ministack.endpoint
    (folder / "data").mkdir(mode=0o700)
    write_json(  # the storage accepts the keys with which the workers assume the role
        folder / "data" / "credentials.json",
        {"access_key": KEYS.access_key, "secret_key": KEYS.secret_key},
    )
    profile = PROFILE.format(bucket=BUCKET, endpoint=endpoint, role=ROLE, external_id=EXTERNAL_ID)
    commands = Commands(worker=at_debug("issue"), beat=at_debug("upkeep"))
    settings = {"VALETKEY_STS_ENDPOINT": endpoint, "KOMBU_LOG_DEBUG": "1"}
    with running_service(folder, profile, commands, **settings) as service:
        yield service


class Secrets(NamedTuple):
    """All that must not be logged, and the logs."""

    secrets: list[str]
    logs: str


@pytest.fixture(scope="module")
def after_all_kinds(service: Service) -> Secrets:
    """The state after a grant of each kind, signed by a session and requested with a key."""
    with service.signing_client() as client:
        link = client.download("assumed", "acme/a.txt", callback="hook").result()
        form = client.upload("assumed", "acme/a.txt", max_size=10).result()
        put = client.put("assumed", "acme/a.bin", size=10).result()
        upload = client.multipart("assumed", "acme/a.bin", size=10).result()
    wait_until(lambda: bool(service.receiver.bodies), what="the webhook has arrived")
    urls = [httpx.URL(grant.url).params for grant in (link, put, upload)]
    signatures = [form.fields["x-amz-signature"], *(url["X-Amz-Signature"] for url in urls)]
    tokens = [form.fields["x-amz-security-token"], *(u["X-Amz-Security-Token"] for u in urls)]
    private = [key["d"] for key in json.loads(dump_private_key(ACME_KEY))["keys"]]
    webhook = service.receiver.headers[-1]["webhook-signature"].removeprefix("v1,")
    keys = [KEYS.secret_key, EXTERNAL_ID, SECRET, SECRET.removeprefix("whsec_"), "h00k5ec2e7"]
    return Secrets([*signatures, *tokens, *private, webhook, *keys], service.logs)


def test_the_log_is_at_debug(after_all_kinds: Secrets) -> None:
    assert '"level": "debug"' in after_all_kinds.logs
    assert '"answered"' in after_all_kinds.logs


def test_no_log_at_debug_shows_a_secret(after_all_kinds: Secrets) -> None:
    assert [text for text in after_all_kinds.secrets if text in after_all_kinds.logs] == []


@pytest.mark.usefixtures("after_all_kinds")
def test_no_log_at_debug_shows_a_message_or_what_sts_answered(service: Service) -> None:
    logs = [service.data / "logs" / f"{name}.log" for name in ("worker", "beat")]
    shown = re.compile(
        r"SecretAccessKey|X-Amz-|Authorization|AWS4-HMAC|eyJ[\w-]{8}|W1[st][i7]\w{8}"
    )
    assert [shown.findall(log.read_text()) for log in logs] == [[], []]
