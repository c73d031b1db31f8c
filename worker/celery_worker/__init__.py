"""One Celery worker: `python -m worker.celery_worker`."""
