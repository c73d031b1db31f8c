from pathlib import Path

import pytest

from models import Base
from models.migrations.initial import triggers
from models.schema import APPEND_ONLY
from tests.support.builders.tenants_files import TenantsFile
from worker.core import CORE
from worker.feature import Feature
from worker.features import FEATURES, contributions, settings_models
from worker.settings import setting_errors
from worker.tenants import tenants_file


def test_every_table_is_contributed_and_no_other_is() -> None:
    assert contributions("tables").keys() == Base.metadata.tables.keys()


def test_the_first_migration_protects_the_tables_that_are_declared_append_only() -> None:
    assert sorted(triggers.APPEND_ONLY) == sorted(APPEND_ONLY)


def test_two_features_with_one_setting_are_refused_with_the_names_of_both(
    capsys: pytest.CaptureFixture[str],
) -> None:
    twins = tuple(Feature(name=name, settings=CORE.settings) for name in ("first", "second"))
    with pytest.raises(SystemExit):
        settings_models(twins)
    message = capsys.readouterr().err
    assert "worker/first/feature.py and worker/second/feature.py both have 'broker_url'" in message


def test_the_wrong_settings_of_all_features_are_reported_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("VALETKEY_CONCURRENCY", "VALETKEY_DEVELOPMENT", "VALETKEY_AUDIT_ORIGIN")
    for name in names:
        monkeypatch.setenv(name, "+ +")
    assert [line.partition(":")[0] for line in setting_errors()] == list(names)


def test_a_feature_declares_only_fields_that_the_core_refuses_without_it() -> None:
    declared = {field: each.name for each in FEATURES for field in each.tenant_fields}
    assert declared == tenants_file._FEATURE_FIELDS


def test_a_field_whose_feature_is_not_in_the_list_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = tuple(each for each in FEATURES if each.name != "uses")
    monkeypatch.setattr(tenants_file, "FEATURES", others)
    text = '[buckets.reports]\nbucket = "reports"\nregion = "eu-central-1"\nprobe_rate = 5\n'
    problem = TenantsFile(tmp_path).problem(text)
    assert (problem.path, problem.line) == ("buckets.reports.probe_rate", 4)
    assert "probe_rate has no effect: this service lacks the feature uses" in problem.message
