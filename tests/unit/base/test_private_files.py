from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from worker.base.private_files import mode_of_others

SERVICE_USER = 10001


def owned_file(owner: int, mode: int) -> Any:
    return SimpleNamespace(stat=lambda: SimpleNamespace(st_mode=0o100000 | mode, st_uid=owner))


@pytest.mark.parametrize(
    ("user", "owner", "mode", "expected"),
    [
        (SERVICE_USER, SERVICE_USER, 0o600, None),
        (SERVICE_USER, SERVICE_USER, 0o640, "0640"),
        (SERVICE_USER, 0, 0o440, None),  # a Secret of Kubernetes, a credential of systemd
        (SERVICE_USER, 0, 0o460, "0460"),
        (SERVICE_USER, 0, 0o444, "0444"),
        (SERVICE_USER, 1000, 0o440, "0440"),
        (0, 0, 0o440, "0440"),
    ],
)
def test_only_the_group_of_what_root_provides_may_read_a_private_file(
    user: int, owner: int, mode: int, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.base.private_files.os.geteuid", lambda: user)
    assert mode_of_others(owned_file(owner, mode)) == expected


def test_a_file_that_does_not_exist_has_no_mode(tmp_path: Path) -> None:
    assert mode_of_others(tmp_path / "missing") is None
