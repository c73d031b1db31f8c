from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LOCKS = [
    *ROOT.glob("*.lock"),
    ROOT / "examples" / "producers" / "package-lock.json",
    ROOT / "tests" / "acceptance" / "contract" / "package-lock.json",
    ROOT / "tests" / "acceptance" / "report" / "package-lock.json",
    ROOT / "tests" / "contract" / "package-lock.json",
]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.relative_to(ROOT)))
def test_a_lock_file_names_hashes_and_no_host(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert "sha256:" in text or '"integrity"' in text
    assert "://" not in text
