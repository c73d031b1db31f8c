"""Sentinel and Cluster, with real servers.

tests/faults/test_failover.py has failovers under load.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.faults.service import ACME_KEY, FaultyService, faulty_service
from tests.support.scope import skip_without
from tests.support.servers.certificates import CertificateAuthority
from tests.support.servers.clusters import running_cluster
from tests.support.servers.event_loop import in_event_loop
from tests.support.servers.programs import run_program, run_worker, worker_environ
from tests.support.servers.sentinels import SentinelGroup
from valetkey import AsyncClient, BrokerUnreachable, Client
from valetkey.config import load_config
from valetkey.crypto.keys import dump_private_key
from valetkey.delivery.redis_clients import open_redis
from valetkey.delivery.transport import Publisher, client_servers
from worker.cli.redis_servers import read_server_facts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
KEY = dump_private_key(ACME_KEY)


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelGroup]:
    with closing(SentinelGroup(tmp_path_factory.mktemp("sentinel"))) as group:
        yield group


@pytest.fixture(scope="module")
def tls_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyService]:
    """A service on servers and sentinels that speak TLS and ask for passwords."""
    program = shutil.which("redis-server")  # the wheel of Valkey has no TLS
    if program is None:
        skip_without("Sentinel with TLS", "apt-get install redis-server")
    folder = tmp_path_factory.mktemp("tls")
    authority = CertificateAuthority(folder)

    def new_group(data: Path) -> SentinelGroup:
        return SentinelGroup(data, authority, program)

    with faulty_service(folder, new_broker=new_group) as service:
        yield service


def _refusal(url: str, result_url: str | None = None) -> str:
    """Return the error of a client whose servers cannot be used."""
    client = Client(url, result_url, tenant="acme", exit_timeout=0)
    with client, pytest.raises(BrokerUnreachable) as refused:
        client.download("demo", "acme/a").result(10)
    return str(refused.value)


def _publish(url: str) -> None:
    """Send a message without a client, which would connect to the result store first."""
    config = load_config({"broker_url": url, "tenant": "acme"}, {})
    with closing(Publisher(client_servers(config))) as publisher:
        publisher.send("id", {}, "valetkey")


def test_with_tls_and_passwords_a_client_is_answered(tls_service: FaultyService) -> None:
    urls = tls_service.broker.url(0), tls_service.broker.url(1)
    with Client(*urls, key=KEY) as client:
        assert client.download("demo", "acme/a").result(60).url


@in_event_loop
async def test_with_tls_and_passwords_a_client_in_an_event_loop_is_answered(
    tls_service: FaultyService,
) -> None:
    async with AsyncClient(tls_service.broker.url(0), key=KEY) as client:
        grant = await client.download("demo", "acme/a").result(60)
        assert grant.url


def test_with_tls_and_passwords_the_command_line_is_answered(tls_service: FaultyService) -> None:
    words = ("download", "demo", "acme/a", "--json")
    environ = worker_environ(tls_service.broker.url(0), tls_service.broker.url(1), VALETKEY_KEY=KEY)
    done = run_program([sys.executable, "-m", "valetkey.cli.main", *words], env=environ)
    assert done.returncode == 0, done.stderr


def test_with_tls_and_passwords_doctor_checks_servers_queues_and_workers(
    tls_service: FaultyService,
) -> None:
    url = tls_service.engine.url.render_as_string(hide_password=False)
    environ = worker_environ(
        tls_service.broker.url(0), tls_service.broker.url(1), VALETKEY_DATABASE_URL=url
    )
    done = run_worker("doctor", "--offline", "--json", env=environ)
    checks = map(json.loads, done.stdout.splitlines())
    states = {(each["check"], each["state"]) for each in checks}
    assert {("broker", "ok"), ("results", "ok"), ("queues", "ok"), ("workers", "ok")} <= states
    assert ("probe", "ok") in states
    assert "of%3" not in done.stdout


def test_a_certificate_of_an_unknown_authority_is_refused_by_publishers_and_readers(
    tls_service: FaultyService,
) -> None:
    url = tls_service.broker.url().partition("&ssl_ca_certs")[0]
    assert "no sentinel that answers knows a running primary" in _refusal(url)
    with pytest.raises(BrokerUnreachable, match="no sentinel that answers"):
        _publish(url)


def test_a_wrong_password_of_the_sentinels_is_named(tls_service: FaultyService) -> None:
    url = tls_service.broker.url().replace("sentinel_password=", "sentinel_password=wr0ng")
    refusal = _refusal(url)
    assert "a sentinel refuses the login; check sentinel_username and sentinel_password" in refusal
    assert "wr0ng" not in refusal


def test_an_unknown_name_of_the_primary_is_named(group: SentinelGroup) -> None:
    refusal = _refusal(group.url().replace("master_name=main", "master_name=other"))
    assert "the sentinels know no running primary of this name" in refusal
    assert "check master_name" in refusal


def test_sentinels_that_do_not_answer_are_named() -> None:
    refusal = _refusal("sentinel://127.0.0.1:1,127.0.0.1:2/0?master_name=main")
    assert "at sentinel://127.0.0.1:1,127.0.0.1:2/0" in refusal
    assert "no sentinel that answers knows a running primary" in refusal


def test_one_sentinel_that_answers_is_enough(group: SentinelGroup) -> None:
    for port in group.sentinels[:2]:
        group.kill(port)
    _publish(group.url())
    for port in group.sentinels[:2]:
        group.start(port)
    group.wait_for_replicas()


@pytest.fixture
def refusing_sentinel(group: SentinelGroup) -> Iterator[str]:
    """The address of a sentinel that tells its user nothing about primaries."""
    port = group.sentinels[0]
    with group.client(port) as client:
        client.execute_command("ACL", "SETUSER", "default", "-sentinel|masters")
        yield f"127.0.0.1:{port}"
        client.execute_command("ACL", "SETUSER", "default", "+sentinel|masters")


def test_the_next_sentinel_is_asked_if_one_refuses_and_another_address_is_that_of_a_server(
    group: SentinelGroup, refusing_sentinel: str
) -> None:
    hosts = f"{refusing_sentinel},127.0.0.1:{group.servers[0]},127.0.0.1:{group.sentinels[2]}"
    url = f"sentinel://{hosts}/0?master_name=main"
    with closing(open_redis(url)) as client:
        assert client.ping()
    _publish(url)


def test_a_sentinel_that_refuses_is_named_with_the_permission(refusing_sentinel: str) -> None:
    refusal = _refusal(f"sentinel://{refusing_sentinel}/0?master_name=main")
    assert "a sentinel refuses SENTINEL MASTERS (ACL); docs/availability.md" in refusal


@pytest.mark.parametrize("writes", ["yes", "no"])
def test_a_replica_is_not_taken_for_a_primary_also_if_it_takes_writes(
    group: SentinelGroup, writes: str
) -> None:
    primary = group.primary()
    replica = next(port for port in group.servers if port != primary)
    with group.client(replica) as client:
        client.config_set("replica-read-only", "no" if writes == "yes" else "yes")
    url = f"redis://127.0.0.1:{replica}"
    done = run_worker("run", env=worker_environ(f"{url}/0", f"{url}/1"))
    assert done.returncode == 1
    assert "it is a replica" in done.stderr
    with group.client(primary) as client:
        assert read_server_facts(client).eviction_policy == "noeviction"


CLUSTER = "it is a Redis Cluster, which Celery's transport does not support"


def test_a_cluster_is_refused_by_name_by_run_and_doctor(tmp_path: Path) -> None:
    with running_cluster(tmp_path, 0, 16383) as url:
        environ = worker_environ(f"{url}/0", f"{url}/0")
        for words in (("run",), ("doctor", "--offline")):
            done = run_worker(*words, env=environ)
            assert done.returncode == 1
            assert CLUSTER in " ".join((done.stdout + done.stderr).split())


def test_a_cluster_is_refused_by_name_by_a_client(tmp_path: Path) -> None:
    with running_cluster(tmp_path, 0, 10) as url:  # other slots are those of other servers
        assert CLUSTER in _refusal(f"{url}/0", f"{url}/0")
        assert "a Redis Cluster, which is not supported" in _refusal(f"{url}/0")
