"""A Celery task that does nothing, under the service's own settings: the cost of Celery alone."""

from celery import Celery

from worker.settings import Settings

TASK = QUEUE = "noop"


def create_app(broker_url: str, result_url: str) -> Celery:
    """Return an application configured like worker.app, but without its guard."""
    app = Celery("noop", set_as_current=False)
    app.config_from_object("celeryconfig")
    app.conf.update(
        broker_url=broker_url,
        result_backend=result_url,
        # The service's own consumer refuses a task that it does not know.
        worker_consumer="celery.worker.consumer:Consumer",
    )
    return app


def _do_nothing() -> None: ...


_settings = Settings()
app = create_app(_settings.broker_url.get_secret_value(), _settings.result_url.get_secret_value())
app.task(name=TASK, ignore_result=False)(_do_nothing)
