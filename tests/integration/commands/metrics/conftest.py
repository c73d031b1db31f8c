from collections.abc import Callable

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine

from tests.support.builders.messages import Clock
from tests.support.cli.scraping import Scraped, parse_metrics
from worker.__main__ import main

Scrape = Callable[..., Scraped]


@pytest.fixture
def scrape(engine: Engine, broker: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Scrape:
    """A function that prints the metrics of the service, with its clock, and parses them."""
    monkeypatch.setenv("VALETKEY_DATABASE_URL", engine.url.render_as_string(hide_password=False))
    monkeypatch.setenv("VALETKEY_BROKER_URL", broker)
    monkeypatch.setenv("VALETKEY_RESULT_URL", broker)
    monkeypatch.setattr("worker.clock.now", clock)

    def run(*words: str) -> Scraped:
        result = CliRunner().invoke(main, ["metrics", *words])
        assert result.exit_code == 0, result.output
        return parse_metrics(result.stdout)

    return run
