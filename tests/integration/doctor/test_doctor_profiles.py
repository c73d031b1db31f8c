"""`doctor` asks the storage of each bucket profile, and its queue of event notifications."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.support.cli.live_doctor import NO_TENANTS, SECRET_KEY, run_doctor, store_profiles
from tests.support.cli.operator import json_lines
from tests.support.fakes.http_storage import StorageResponse, running_http_storage
from tests.support.fakes.socket_server import running_socket_server, stay_silent
from tests.support.uses.notifications import TestQueue
from worker.dev.embedded_servers import Storage, create_buckets
from worker.doctor import storage_checks
from worker.rules.tenant_config import Bucket, Policy, Quota, Tenant
from worker.uses import use_monitoring
from worker.uses.events.event_queues import queue_id
from worker.uses.use_monitoring import check_readers

CheckProfiles = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def check_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckProfiles:
    """A function that stores bucket profiles, and returns the checks of `doctor` of a name."""
    monkeypatch.setenv("VALETKEY_BROKER_URL", "redis://127.0.0.1:1/0")

    def check(
        name: str,
        *buckets: Bucket,
        options: Sequence[str] = (),
        tenants: Mapping[str, Tenant] = NO_TENANTS,
    ) -> list[dict[str, Any]]:
        url = store_profiles(tmp_path, *buckets, tenants=tenants)
        monkeypatch.setenv("VALETKEY_DATABASE_URL", url)
        result = run_doctor(*options)
        assert SECRET_KEY not in result.output
        return [check for check in json_lines(result) if check["check"] == name]

    return check


@pytest.fixture
def unknown_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys in the environment that no storage knows."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)


PROFILE = Bucket("demo", "doctor-real", "us-east-1", "path", "http://127.0.0.1:1")


@pytest.fixture(params=["seaweed", "ministack"])
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """Storage with the bucket `doctor-real`, whose keys are those of the environment."""
    storage: Storage = request.getfixturevalue(request.param)
    create_buckets(storage.client(), {"doctor-real"})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", storage.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", storage.secret_key)
    return storage


UPLOADER = Tenant(
    "acme",
    trust="queue",
    policies={"demo": Policy("demo", ("acme/",), ("upload",), max_size=1)},
    quotas=(Quota("stored_bytes", "live", 1),),
)


def test_what_the_credentials_may_do_is_tried(
    storage: Storage, check_profiles: CheckProfiles
) -> None:
    bucket = replace(PROFILE, endpoint=storage.endpoint)
    (check,) = check_profiles("permissions", bucket, tenants={"acme": UPLOADER})
    assert check["state"] == "ok"
    assert check["message"].startswith("demo: storage allows all ")


@pytest.mark.parametrize("status", [None, "Enabled", "Suspended"])
def test_a_quota_of_what_is_stored_fails_in_a_versioned_bucket(
    storage: Storage, check_profiles: CheckProfiles, status: str | None
) -> None:
    if status:
        storage.client().put_bucket_versioning(
            Bucket="doctor-real", VersioningConfiguration={"Status": status}
        )
    bucket = replace(PROFILE, endpoint=storage.endpoint)
    (check,) = check_profiles("buckets", bucket, tenants={"acme": UPLOADER})
    assert check["state"] == ("fail" if status == "Enabled" else "ok")
    assert ("the bucket is versioned" in check["message"]) == (status == "Enabled")


DOWNLOADER = replace(UPLOADER, policies={"demo": Policy("demo", ("acme/",), ("download",))})


@pytest.mark.usefixtures("unknown_keys")
@pytest.mark.parametrize(
    ("tenant", "is_asked"),
    [(UPLOADER, True), (DOWNLOADER, False), (replace(UPLOADER, quotas=()), False)],
    ids=["uploads", "downloads", "no quota"],
)
def test_storage_that_hides_versions_is_a_warning_where_they_matter(
    check_profiles: CheckProfiles, tenant: Tenant, *, is_asked: bool
) -> None:
    denied = b"<Error><Code>AccessDenied</Code></Error>"
    with running_http_storage(lambda _: StorageResponse(403, body=denied)) as server:
        bucket = replace(PROFILE, endpoint=server.url)
        (check,) = check_profiles("buckets", bucket, tenants={"acme": tenant})
    assert check["state"] == ("warn" if is_asked else "ok")
    assert ("does not show whether" in check["message"]) == is_asked
    asked = [request.target for request in server.received if "versioning" in request.target]
    assert len(asked) == is_asked


@pytest.mark.parametrize("address", ["endpoint", "internal_endpoint"])
def test_valid_credentials_are_accepted_also_at_the_internal_endpoint(
    storage: Storage, check_profiles: CheckProfiles, address: str
) -> None:
    place: dict[str, Any] = {address: storage.endpoint}
    (check,) = check_profiles("buckets", replace(PROFILE, **place))
    assert check["state"] == "ok"
    assert check["message"].startswith("demo: storage accepts the credentials for doctor-real")


SECRET = {"AWS_SECRET_ACCESS_KEY": SECRET_KEY}
UNKNOWN = SECRET | {"AWS_ACCESS_KEY_ID": "AKIAUNKNOWN"}
WRONG: dict[str, tuple[dict[str, str], dict[str, str], str, str]] = {
    "access key": (UNKNOWN, {}, "not know the access key of AWS profile 'default'", "replace the"),
    "secret key": (SECRET, {}, "secret key of AWS profile 'default' is wrong", "AWS_SECRET_ACCESS"),
    "bucket": ({}, {"bucket": "none"}, "demo: storage has no bucket none", "[buckets.demo]"),
    "session token": ({"AWS_SESSION_TOKEN": SECRET_KEY}, {}, "session token", ""),
    "region": ({}, {"region": "eu-west-3"}, "is not in the region eu-west-3", "write region = "),
}


@pytest.mark.parametrize(
    ("storage", "wrong"),
    [
        *((name, wrong) for name in ("seaweed", "ministack") for wrong in list(WRONG)[:3]),
        *(("ministack", wrong) for wrong in list(WRONG)[3:]),  # the other one checks neither
    ],
    indirect=["storage"],
)
def test_what_storage_refuses_is_named(
    storage: Storage, check_profiles: CheckProfiles, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    environ, changes, message, hint = WRONG[wrong]
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    fields: dict[str, Any] = {"endpoint": storage.endpoint, **changes}
    (check,) = check_profiles("buckets", replace(PROFILE, **fields))
    assert check["state"] == "fail"
    assert message in check["message"]
    assert hint in (check["hint"] or "")


@pytest.mark.parametrize("storage", ["seaweed"], indirect=True)
def test_a_clock_that_differs_is_named(
    storage: Storage, check_profiles: CheckProfiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.clock.now", lambda: datetime.now(UTC) - timedelta(seconds=450))
    (check,) = check_profiles("buckets", replace(PROFILE, endpoint=storage.endpoint))
    assert check["state"] == "fail"
    words = "this machine's clock is 7 minutes [0-9]+ seconds? behind storage's"
    assert re.search(words, check["message"])


@pytest.mark.usefixtures("unknown_keys")
def test_storage_that_is_away_is_a_warning_with_the_cause(
    check_profiles: CheckProfiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_checks, "_IDLE_SECONDS", 0.2)
    with running_socket_server(stay_silent) as silent:
        hosts = ("http://127.0.0.1:1", "http://no-such-host.invalid", silent)
        buckets = (replace(PROFILE, name=f"b{n}", endpoint=url) for n, url in enumerate(hosts))
        checks = check_profiles("buckets", *buckets)
    assert [check["state"] for check in checks] == ["warn"] * 3
    causes = [check["message"].rpartition("are signed: ")[2] for check in checks]
    assert causes == [
        "nothing listens at this host and port (connection refused)",
        "its host name cannot be resolved",
        "it does not respond in time",
    ]


def test_missing_credentials_are_a_failure(
    check_profiles: CheckProfiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(variable, str(tmp_path / "none"))
    (check,) = check_profiles("buckets", PROFILE)
    assert check["state"] == "fail"
    assert "no credentials of AWS profile 'default'" in check["message"]


@pytest.mark.usefixtures("unknown_keys")
def test_no_request_is_sent_offline(check_profiles: CheckProfiles) -> None:
    (check,) = check_profiles("buckets", PROFILE, options=["--offline"])
    assert check["state"] == "ok"
    assert "--offline" in check["message"]


UPLOADS, VIDEOS = (f"http://sqs/111122223333/{name}" for name in ("uploads", "videos"))
UNREACHABLE = "http://127.0.0.1:9/1/uploads"


@pytest.fixture
def queue(ministack: Storage, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestQueue]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ministack.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ministack.secret_key)
    sqs = boto3.Session().client("sqs", "us-east-1", endpoint_url=ministack.endpoint)
    queue = TestQueue(sqs)
    yield queue
    sqs.delete_queue(QueueUrl=queue.url)
    sqs.close()


def bucket(queue_url: str) -> Bucket:
    endpoint = "http://127.0.0.1:9"
    return Bucket("demo", "events", "us-east-1", "path", endpoint, events_queue=queue_url)


def test_a_queue_that_can_be_used_is_ok(queue: TestQueue, check_profiles: CheckProfiles) -> None:
    queue.send("one")
    (check,) = check_profiles("events", bucket(queue.url))
    name = queue.url.rpartition("/")[2]
    assert check["state"] == "ok"
    assert check["message"] == f"demo: the queue {name} can be used; 1 messages wait"


def test_a_queue_that_does_not_exist_is_named(
    queue: TestQueue, check_profiles: CheckProfiles
) -> None:
    (check,) = check_profiles("events", bucket(f"{queue.url}-missing"))
    assert (check["state"], check["hint"]) == ("fail", "create the queue, or correct events_queue")
    assert "NonExistentQueue" in check["message"]


@pytest.mark.usefixtures("unknown_keys")
def test_a_queue_that_does_not_answer_is_named_and_offline_none_is_asked(
    check_profiles: CheckProfiles,
) -> None:
    (check,) = check_profiles("events", bucket(UNREACHABLE))
    assert check["state"] == "fail"
    assert check["message"].startswith("demo: the queue uploads cannot be used: EndpointConnection")
    assert check_profiles("events", bucket(UNREACHABLE), options=["--offline"]) == []


def test_a_queue_that_does_not_answer_in_time_is_named(
    check_profiles: CheckProfiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(*_: Any) -> None:
        raise TimeoutError

    monkeypatch.setattr(use_monitoring, "call_with_timeout", wait)
    (check,) = check_profiles("events", bucket(UPLOADS))
    assert check["message"] == "demo: the queue uploads does not answer: in time"


@pytest.mark.usefixtures("unknown_keys")
@pytest.mark.parametrize("type_", ["text/html", "application/json"])
def test_a_server_that_is_not_sqs_is_no_empty_queue(
    type_: str, check_profiles: CheckProfiles
) -> None:
    response = StorageResponse(200, {"content-type": type_}, b"{}")
    with running_http_storage(lambda _: response) as server:
        (check,) = check_profiles("events", bucket(f"{server.url}/1/uploads"))
    assert check["message"] == "demo: the queue uploads cannot be used: NotSQS"


def test_a_queue_that_no_worker_reads_is_a_warning_if_the_result_store_knows() -> None:
    queues = [(url, bucket(url)) for url in (UPLOADS, VIDEOS)]
    namesake = UPLOADS.replace("sqs", "another")
    read = {"valetkey", f"events:{queue_id(VIDEOS)}", f"events:{queue_id(namesake)}"}
    (check,) = check_readers(queues, read)
    assert (check.state, check.hint) == ("warn", "python -m worker run --only events")
    assert "demo: no worker reads the queue uploads" in check.message
    assert list(check_readers(queues, None)) == []
