"""A file is uploaded in parts to a fake storage; tests/acceptance has a real one."""

from collections import Counter
from pathlib import Path

import pytest

from tests.support.fakes.http_storage import HttpStorage, StorageResponse, StoredRequest
from tests.support.fakes.multipart_service import (
    CONTENT,
    STATE,
    accept_all,
    part_number,
    press_ctrl_c_at_part,
    run_upload,
    service,
)
from valetkey import Client, StorageError
from valetkey.multipart_upload import MultipartUploader

ERROR = b"<Error><Code>InternalError</Code><Resource>s3cret</Resource></Error>"


def stored_content(storage: HttpStorage) -> bytes:
    return b"".join(request.body for request in sorted(storage.requests("PUT"), key=part_number))


def test_a_file_is_cut_sent_and_completed(broker: str) -> None:
    with service(broker) as (_, storage):
        result = run_upload()
    assert result.exit_code == 0
    assert result.stderr.startswith("stored 'a/film': 23 B in 5 parts, in 1 second (")
    assert result.stdout.endswith(".0\n")
    assert not STATE.exists()
    assert stored_content(storage) == CONTENT
    assert len(storage.requests("POST")) == 1
    assert storage.requests("DELETE") == []


def test_parts_are_requested_as_they_are_needed(broker: str) -> None:
    with service(broker) as (fake_service, _):
        run_upload("--parallel", "1")
    part_numbers = [
        [i["part"] for i in m["items"] if "part" in i] for _, m in fake_service.received
    ]
    assert part_numbers == [[], [1, 2, 3, 4], [5]]
    terms = fake_service.received[1][1]["grant"]
    assert (terms["expires_in"], terms["min_expires_in"]) == (3_600, 1)


def test_a_part_that_was_not_stored_is_sent_again_by_a_fresh_url(broker: str) -> None:
    tries: Counter[int] = Counter()

    def expired_once(request: StoredRequest) -> StorageResponse:
        number = part_number(request)
        tries[number] += 1
        return StorageResponse(403) if number == 2 and tries[2] == 1 else accept_all(request)

    with (
        service(broker, expired_once) as (fake_service, storage),
        Client(broker, tenant="acme") as client,
    ):
        upload = client.multipart("inbox", "a", size=len(CONTENT))
        progress: list[int] = []
        delays: list[float] = []
        MultipartUploader(
            upload, Path("film"), on_progress=progress.append, sleep=delays.append
        ).run()
    assert (tries[2], tries[1], delays) == (2, 1, [1])
    assert [i["part"] for i in fake_service.received[-1][1]["items"]] == [2]
    assert len(storage.requests("POST")) == 1
    assert sum(progress) == len(CONTENT)


def test_a_part_that_storage_never_accepts_fails_the_upload_with_the_reason(broker: str) -> None:
    def refusing(request: StoredRequest) -> StorageResponse:
        return StorageResponse(403, {}, ERROR) if request.method == "PUT" else accept_all(request)

    with service(broker, refusing) as (_, storage), Client(broker, tenant="acme") as client:
        upload = client.multipart("inbox", "a", size=len(CONTENT))
        with pytest.raises(StorageError, match="storage answered 403: InternalError") as caught:
            MultipartUploader(upload, Path("film"), sleep=lambda _: None).run()
    assert "s3cret" not in str(caught.value)
    assert storage.requests("POST") == []


def test_an_error_with_status_200_aborts_the_upload(broker: str) -> None:
    def failing(request: StoredRequest) -> StorageResponse:
        return StorageResponse(200, {}, ERROR) if request.method == "POST" else accept_all(request)

    with service(broker, failing) as (_, storage):
        result = run_upload()
    assert (result.exit_code, result.stdout) == (4, "")
    assert "storage did not complete the upload: InternalError" in result.stderr
    assert "aborted: nothing of it is stored" in result.stderr
    assert [request.target for request in storage.requests("DELETE")] == ["/abort"]
    assert "s3cret" not in result.stderr


@pytest.mark.parametrize(("options", "deletes"), [((), 1), (("--keep",), 0)])
def test_ctrl_c_aborts_the_upload_unless_it_is_to_be_kept(
    broker: str, options: tuple[str, ...], deletes: int
) -> None:
    with service(broker, press_ctrl_c_at_part(1)) as (_, storage):
        result = run_upload(*options)
    assert (result.exit_code, result.stdout) == (130, "")
    assert ("kept until 2099-01-01" in result.stderr) == (not deletes)
    assert len(storage.requests("DELETE")) == deletes
    assert storage.requests("POST") == []


def test_a_service_that_aborts_the_upload_itself_is_left_to_it(broker: str) -> None:
    with service(broker, press_ctrl_c_at_part(1), aborting=1) as (fake_service, storage):
        result = run_upload()
    assert "the quota gets its bytes back within minutes" in result.stderr
    assert fake_service.received[-1][1]["abort_uploads"] is True
    assert storage.requests("DELETE") == []


def test_a_file_that_became_shorter_is_not_stored_as_something_else(broker: str) -> None:
    with service(broker) as (_, storage), Client(broker, tenant="acme") as client:
        upload = client.multipart("inbox", "a", size=len(CONTENT))
        upload.result(10)
        Path("film").write_bytes(CONTENT[:3])
        with pytest.raises(StorageError, match="its file became shorter"):
            MultipartUploader(upload, Path("film"), sleep=lambda _: None).run()
    assert storage.requests("POST") == []
