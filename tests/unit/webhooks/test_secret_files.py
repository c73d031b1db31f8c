"""The commands `secret new` and `secret rotate`."""

import os
import stat
import tomllib
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from worker import clock
from worker.webhooks.commands.secret_commands import secret
from worker.webhooks.webhook_secrets import (
    WebhookSecret,
    dump_secrets,
    parse_secrets,
    read_secrets,
    secret_reference_error,
)

KINDS = {"v1": (), "v1a": ("--asymmetric",)}


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(secret, list(map(str, words)))


def words_of(path: Path) -> list[str]:
    return [word for word in path.read_text().split() if word.startswith("whs")]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> datetime:
    """The time of the commands; the clock stands still."""
    now = clock.now().replace(microsecond=0)
    monkeypatch.setattr(clock, "now", lambda: now)
    return now


@pytest.fixture(params=KINDS)
def created(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file with a new secret of each kind."""
    path = tmp_path / "hook.secret"
    assert run("new", path, *KINDS[request.param]).exit_code == 0
    return path


@pytest.mark.parametrize("name", ["hook.secret", 'my "größe" 🔑'])
@pytest.mark.parametrize("kind", KINDS)
def test_the_printed_line_refers_to_a_new_secret_that_signs(
    tmp_path: Path, name: str, kind: str
) -> None:
    result = run("new", tmp_path / name, *KINDS[kind])
    reference = tomllib.loads(result.stdout)["secret"]
    assert secret_reference_error(reference) is None
    assert [each.scheme for each in read_secrets(reference, {})] == [kind]


def test_the_line_of_a_file_in_this_folder_names_it_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("new", "hook.secret")
    assert result.stdout == f'secret = "file:{tmp_path}/hook.secret"\n'


def test_the_public_key_of_a_new_key_is_a_comment_after_its_line(tmp_path: Path) -> None:
    result = run("new", tmp_path / "hook.secret", "--asymmetric")
    (created,) = parse_secrets((tmp_path / "hook.secret").read_text())
    comment = result.stdout.splitlines()[1]
    assert comment == f"# its public key, for the receiver: {created.public_key}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_secret_is_private_and_is_not_printed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "hook.secret"
    result = run("new", path, *KINDS[kind])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().strip().partition("_")[2] not in result.output


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "hook.secret"
    path.write_text("mine")
    result = run("new", path)
    assert (result.exit_code, path.read_text()) == (2, "mine")
    assert f"{path}: File exists" in " ".join(result.stderr.split())


def test_two_secrets_differ(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert run("new", tmp_path / name).exit_code == 0
    assert (tmp_path / "a").read_text() != (tmp_path / "b").read_text()


def test_a_rotated_file_has_a_new_secret_of_the_same_kind_and_the_old_one_with_its_end(
    created: Path, now: datetime
) -> None:
    (before,) = parse_secrets(created.read_text())
    result = run("rotate", created, "--overlap", "36h")
    assert result.exit_code == 0, result.output
    new, old = parse_secrets(created.read_text())
    assert (new.scheme, new.until) == (before.scheme, None)
    assert new.key != before.key == old.key
    assert old.until == now + timedelta(hours=36)


def test_a_rotation_prints_the_next_step_with_the_end_and_no_secret(
    created: Path, now: datetime
) -> None:
    result = run("rotate", created)
    end = (now + timedelta(hours=24)).isoformat().replace("+00:00", "Z")
    assert f"the old one until {end}.\nNext: give the receiver the " in result.stderr
    for word in words_of(created):
        assert word.partition("_")[2] not in result.output
    public_key = parse_secrets(created.read_text())[0].public_key
    assert result.stdout == ("" if public_key is None else f"{public_key}\n")


def test_a_rotated_file_is_private(created: Path) -> None:
    run("rotate", created)
    assert stat.S_IMODE(created.stat().st_mode) == 0o600


def test_rotating_without_an_overlap_removes_the_old_secret(created: Path) -> None:
    before = words_of(created)
    result = run("rotate", created, "--overlap", "0")
    assert len(words_of(created)) == 1
    assert words_of(created) != before
    assert "webhooks are refused until the receiver has it" in result.stderr


def test_rotating_again_shortens_no_overlap_and_drops_what_has_ended(
    tmp_path: Path, now: datetime
) -> None:
    ended, soon = (WebhookSecret(b"k" * 24, "v1", now + timedelta(hours=n)) for n in (0, 1))
    path = tmp_path / "hook.secret"
    path.touch(0o600)
    path.write_text(dump_secrets([ended, soon, WebhookSecret(b"o" * 24)]))
    run("rotate", path)
    ends = [each.until for each in parse_secrets(path.read_text())]
    assert ends == [None, now + timedelta(hours=1), now + timedelta(hours=24)]


def test_a_shared_secret_can_be_replaced_by_a_key_whose_receiver_holds_no_secret(
    tmp_path: Path,
) -> None:
    path = tmp_path / "hook.secret"
    run("new", path)
    result = run("rotate", path, "--asymmetric")
    assert [each.scheme for each in parse_secrets(path.read_text())] == ["v1a", "v1"]
    assert result.stdout.startswith("whpk_")
    run("rotate", path)
    assert [each.scheme for each in parse_secrets(path.read_text())] == ["v1a", "v1a", "v1"]


@pytest.mark.parametrize("overlap", ["", "soon", "1w", "-1h", "366d", "999999999999999d"])
def test_an_overlap_that_is_no_duration_or_too_long_changes_nothing(
    created: Path, overlap: str
) -> None:
    before = created.read_text()
    result = run("rotate", created, "--overlap", overlap)
    assert (result.exit_code, created.read_text()) == (2, before)


def broken(path: Path) -> None:
    path.write_text("whsec_hush")


def shared(path: Path) -> None:
    path.chmod(0o640)


def linked(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def state_of(path: Path) -> tuple[int, ...] | None:
    """Return what a change of a file changes, and reading it does not; None if there is none."""
    if not os.path.lexists(path):
        return None
    state = path.lstat()
    return state.st_ino, state.st_mode, state.st_size, state.st_mtime_ns, state.st_ctime_ns


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (broken, "does not contain valid webhook secrets"),
        (shared, "other accounts have access to it (mode 0640): run chmod 600"),
        (linked, "it is a symbolic link or no file: name the file itself"),
        (piped, "it is a symbolic link or no file: name the file itself"),
        (Path.unlink, "No such file or directory"),
    ],
)
def test_a_file_that_must_not_be_replaced_is_refused(
    created: Path, change: Callable[[Path], None], problem: str
) -> None:
    change(created)
    before = state_of(created)
    result = run("rotate", created)
    output = " ".join(result.stderr.split())
    assert (result.exit_code, f"{created} was not changed: " in output) == (2, True)
    assert problem in output
    assert "hush" not in result.output
    assert state_of(created) == before


def test_a_file_of_another_account_is_refused(
    created: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, account = created.read_text(), os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: account + 1)
    result = run("rotate", created)
    assert (result.exit_code, created.read_text()) == (2, before)
    assert "it belongs to another account" in " ".join(result.stderr.split())
