"""The pages of reference are generated, and complete."""

import re

import pytest

from tools.reference_pages import PAGES, ROOT, events_page, settings_page
from valetkey.wire.events import EVENT_TYPES
from worker.features import settings_models


@pytest.mark.parametrize("page", PAGES)
def test_a_page_of_reference_is_what_the_code_generates(page: str) -> None:
    assert (ROOT / page).read_text(encoding="utf-8") == PAGES[page](), "run `make contract`"


def test_the_page_of_settings_has_each_variable_with_its_meaning() -> None:
    page = settings_page()
    for name in (name for model in settings_models() for name in model.model_fields):
        assert re.search(rf"^\| `VALETKEY_{name.upper()}` \| .+ \| \w.+ \|$", page, re.MULTILINE)


def test_the_page_of_events_has_each_type_of_webhook_and_what_a_worker_logs() -> None:
    page = events_page()
    assert [name for name in EVENT_TYPES if f"| `{name}` |" not in page] == []
    for event in ("issue_postponed", "issue_given_up", "cleaned_up", "message_dead_lettered"):
        assert f"| `{event}` |" in page
