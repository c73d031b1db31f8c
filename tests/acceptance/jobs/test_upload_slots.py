"""The page that uploads a file straight to storage, in a real browser."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.acceptance.conftest import Service, storage_client
from tests.acceptance.jobs.conftest import JOBS
from tests.support.s3.chromium import Tab
from tests.support.servers.waiting import wait_until

BUCKET = "valetkey-demo"


class UploadSite:
    """The running program upload_slots.py."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        assert process.stdout is not None
        self.url = process.stdout.readline().strip()

    def request_slot(self, name: str) -> httpx.Response:
        return httpx.post(f"{self.url}slots", json={"name": name}, timeout=30)

    def state(self, slot: str) -> httpx.Response:
        return httpx.get(f"{self.url}slots/{slot}", timeout=30)


@contextmanager
def running_site(service: Service, folder: Path, port: int = 0) -> Iterator[UploadSite]:
    command = [sys.executable, "-W", "error", str(JOBS / "upload_slots.py"), "--port", str(port)]
    environ = service.producer_environ(folder)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environ, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield UploadSite(process)
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)


@pytest.fixture
def site(service: Service, tmp_path: Path) -> Iterator[UploadSite]:
    with running_site(service, tmp_path) as site:
        yield site
    assert site.process.returncode == 0


@pytest.fixture
def cors(service: Service) -> Iterator[None]:
    """Rules that let pages read the answers of the bucket."""
    storage = storage_client(service.stack)
    rule = {"AllowedOrigins": ["*"], "AllowedMethods": ["POST"], "AllowedHeaders": ["*"]}
    storage.put_bucket_cors(Bucket=BUCKET, CORSConfiguration={"CORSRules": [rule]})
    yield
    storage.delete_bucket_cors(Bucket=BUCKET)


def upload(tab: Tab, site: UploadSite, file: Path) -> None:
    """Choose a file on the page, and send the form."""
    assert tab.visit(site.url)
    tab.choose_file(file)
    tab.evaluate("document.querySelector('button').click()")


def wait_for_notice(tab: Tab, text: str) -> None:
    notice = "document.querySelector('#notice').textContent"
    wait_until(lambda: text in (tab.evaluate(notice) or ""), 30, what=f"the page says {text!r}")


@pytest.mark.usefixtures("cors")
def test_the_page_says_that_the_chosen_file_is_stored(
    service: Service, site: UploadSite, tab: Tab, tmp_path: Path
) -> None:
    file = tmp_path / "größer & 1.png"
    file.write_bytes(b"12345")
    upload(tab, site, file)
    wait_for_notice(tab, "Stored: 5 bytes.")
    stored = storage_client(service.stack).list_objects_v2(Bucket=BUCKET, Prefix="acme/inbox/")
    assert [entry["Key"].rpartition("/")[2] for entry in stored["Contents"]][-1] == file.name


@pytest.mark.usefixtures("cors")
def test_the_page_says_what_storage_refuses(site: UploadSite, tab: Tab, tmp_path: Path) -> None:
    (tmp_path / "large.bin").write_bytes(bytes(1_000_001))
    upload(tab, site, tmp_path / "large.bin")
    wait_for_notice(tab, "Not stored: storage says EntityTooLarge")


def test_without_cors_the_page_still_says_that_the_file_is_stored(
    site: UploadSite, tab: Tab, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(b"123456")
    upload(tab, site, tmp_path / "a.txt")
    wait_for_notice(tab, "Stored: 6 bytes.")


def test_the_page_says_why_there_is_no_slot(site: UploadSite, tab: Tab, tmp_path: Path) -> None:
    file = tmp_path / "a\\b.txt"  # a key must not have a backslash
    file.write_bytes(b"1")
    upload(tab, site, file)
    wait_for_notice(tab, "backslash")


def test_a_slot_of_a_program_that_was_killed_is_told_by_the_next_one(
    service: Service, tmp_path: Path
) -> None:
    with running_site(service, tmp_path) as first:
        slot = first.request_slot("a.txt").json()
        first.process.kill()
        first.process.wait()
    port = httpx.URL(first.url).port
    files = {"file": b"1234"}
    assert httpx.post(slot["url"], data=slot["fields"], files=files, timeout=60).is_success
    with running_site(service, tmp_path, port or 0) as second:
        state = second.state(slot["id"])
    assert (state.status_code, state.json()) == (200, {"state": "stored", "size": 4})


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"name": "' + b"x" * 10_000 + b'"}'])
def test_a_request_that_names_no_file_is_refused(site: UploadSite, body: bytes) -> None:
    response = httpx.post(f"{site.url}slots", content=body, timeout=30)
    assert response.status_code == 400
    assert response.json()["problem"]


@pytest.mark.parametrize("path", ["slots/x", "slots/0199a000-0000-7000-8000-000000000001.0", "x"])
def test_a_slot_that_does_not_exist_is_not_found(site: UploadSite, path: str) -> None:
    assert httpx.get(site.url + path, timeout=30).status_code == 404
