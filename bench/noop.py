"""A Celery task that does nothing, under the service's own configuration: what Celery costs."""

from celery import Celery

from worker.settings import Settings

TASK = QUEUE = "noop"


def application(broker_url: str, result_url: str) -> Celery:
    """Make the application, as worker.app makes the service's."""
    app = Celery("noop", set_as_current=False)
    app.config_from_object("celeryconfig")
    app.conf.update(broker_url=broker_url, result_backend=result_url)
    return app


def _nothing() -> None: ...


_settings = Settings()
app = application(_settings.broker_url.get_secret_value(), _settings.result_url.get_secret_value())
app.task(name=TASK, ignore_result=False)(_nothing)
