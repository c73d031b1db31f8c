"""Every change of a stored audit log is found, and named at the right place."""

import random
from pathlib import Path

import pytest

from tests.support.audit_log.logs import generate_log
from tests.support.audit_log.mutations import MUTATIONS
from tests.support.audit_log.trials import (
    Trial,
    copied_file,
    options_of,
    print_table,
    problems_of,
    try_mutation,
)
from worker.usecases.audit.verify import verify_log

SEEDS = range(3)


@pytest.mark.timeout(300)
def test_six_hundred_changes_are_found_at_the_right_place_on_sqlite(tmp_path: Path) -> None:
    trials: list[Trial] = []
    for seed in SEEDS:
        folder = tmp_path / str(seed)
        folder.mkdir()
        log = generate_log(f"sqlite:///{folder / 'log.db'}", seed)
        notes = folder / "notes"
        notes.mkdir()
        options = options_of(log, notes)
        assert not list(problems_of(verify_log(log.url, options)))
        for kind, (times, mutation) in MUTATIONS.items():
            for number in range(seed, times, len(SEEDS)):
                rng = random.Random(f"{kind} {number}")
                with copied_file(log) as url:
                    trials.append(try_mutation(kind, mutation, url, options, rng))
    print_table(trials)
    assert [trial for trial in trials if not trial.found] == []
    assert [trial for trial in trials if not trial.is_placed] == []
    assert len(trials) >= 600
