"""Every change of a stored audit log is found, and named at the right place."""

import random
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.support.audit_log.logs import generate_log
from tests.support.audit_log.mutations import MUTATIONS
from tests.support.audit_log.trials import (
    Trial,
    copied_file,
    options_of,
    print_table,
    try_mutation,
)
from tests.support.servers.databases import fresh_database, migrated_file
from worker.proof.verify.verification import verify_log

pytestmark = pytest.mark.slow

SEEDS = range(3)


def assert_all_are_found(trials: list[Trial]) -> None:
    print_table(trials)
    assert [trial for trial in trials if not trial.found] == []
    assert [trial for trial in trials if not trial.is_placed] == []


@pytest.mark.timeout(600)
def test_six_hundred_changes_are_found_at_the_right_place_on_sqlite(tmp_path: Path) -> None:
    trials: list[Trial] = []
    for seed in SEEDS:
        folder = tmp_path / str(seed)
        folder.mkdir()
        log = generate_log(migrated_file(folder / "log.db"), seed, is_pruned=True)
        options = options_of(log, folder / "checkpoints")
        assert not verify_log(log.url, options).problems
        for kind, (times, mutation) in MUTATIONS.items():
            for number in range(seed, times, len(SEEDS)):
                rng = random.Random(f"{kind} {number}")
                with copied_file(log) as url:
                    trials.append(try_mutation(kind, mutation, url, options, rng))
    assert_all_are_found(trials)
    assert len(trials) >= 600


@pytest.mark.timeout(600)
def test_each_kind_of_change_is_found_at_the_right_place_on_postgresql(
    tmp_path: Path, postgres_url: str, migrated_postgres: str
) -> None:
    log = generate_log(migrated_postgres, seed=1, is_pruned=True)
    options = options_of(log, tmp_path)
    assert not verify_log(log.url, options).problems
    trials: list[Trial] = []
    for kind, (_, mutation) in MUTATIONS.items():
        with fresh_database(postgres_url, template=str(make_url(log.url).database)) as url:
            trials.append(try_mutation(kind, mutation, url, options, random.Random(kind)))
    assert_all_are_found(trials)
