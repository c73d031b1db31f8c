"""docs/tenants.md is generated."""

from tools.tenants_page import PAGE, render_page


def test_the_reference_has_the_fields_defaults_and_hints_of_the_config() -> None:
    assert PAGE.read_text(encoding="utf-8") == render_page(), "run `make contract`"
