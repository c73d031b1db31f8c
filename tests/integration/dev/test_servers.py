import importlib.metadata
import platform
from pathlib import Path
from typing import NoReturn

import pytest
import redis

from worker.dev.child_processes import StartFailed
from worker.dev.data_folder import storage_keys
from worker.dev.embedded_servers import Storage, running_seaweedfs, running_valkey

pytestmark = pytest.mark.slow


def test_valkey_does_not_evict_what_is_queued(valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_valkey_still_knows_its_keys_after_a_restart(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server, redis.Redis.from_url(server.url()) as client:
        client.set("kept", "1")
    with running_valkey(tmp_path) as server, redis.Redis.from_url(server.url()) as client:
        assert client.get("kept") == b"1"


def test_seaweedfs_keeps_its_objects_on_other_ports(tmp_path: Path) -> None:
    with running_seaweedfs(tmp_path, storage_keys(tmp_path)) as first:
        first.client().create_bucket(Bucket="embedded-kept")
        first.client().put_object(Bucket="embedded-kept", Key="a/b", Body=b"hello")
    with running_seaweedfs(tmp_path, storage_keys(tmp_path)) as second:
        assert second.endpoint != first.endpoint
        stored = second.client().get_object(Bucket="embedded-kept", Key="a/b")
        assert stored["Body"].read() == b"hello"


def test_seaweedfs_takes_only_its_objects_from_one_start_to_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "seaweedfs"
    (folder / "m1").mkdir(parents=True)
    (folder / "mini.options").write_text("disableHttp=true\n")
    with running_seaweedfs(tmp_path, storage_keys(tmp_path)) as storage:
        assert "Loaded 1 options" not in storage.child.log.read_text()
        assert not (folder / "m1").exists()
    port = storage.endpoint.rpartition(":")[2]
    assert list(Path("/tmp").glob(f"seaweedfs-s3-{port}.sock")) == []  # noqa: S108 - where it puts them


def test_a_storage_secret_is_in_no_log_and_no_repr(seaweed: Storage) -> None:
    assert seaweed.secret_key not in seaweed.child.log.read_text() + repr(seaweed)


def test_without_a_valkey_for_the_platform_one_is_told_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Plan9")
    with pytest.raises(StartFailed, match="VALETKEY_BROKER_URL"), running_valkey(tmp_path):
        pass


def test_without_a_seaweedfs_for_the_platform_one_is_told_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> NoReturn:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with (
        pytest.raises(StartFailed, match="VALETKEY_S3_ENDPOINT"),
        running_seaweedfs(tmp_path, storage_keys(tmp_path)),
    ):
        pass
