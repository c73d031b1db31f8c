"""Receives webhooks with Django, in one file.

export VALETKEY_HOOK_SECRET=whsec_…
python django_app.py runserver 3000
"""

import os
import sys
from typing import Any

import django
from django.conf import settings
from django.core.management import execute_from_command_line
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from valetkey.webhooks import Event, InvalidWebhook, UploadStored, unwrap

SECRETS = os.environ["VALETKEY_HOOK_SECRET"].split()  # two during a rotation
DATABASE = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": os.environ.get("HOOK_DATABASE", "hooks.db"),
}
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], DATABASES={"default": DATABASE})
django.setup()

with connection.cursor() as cursor:  # your code: models and a migration
    cursor.execute("CREATE TABLE IF NOT EXISTS webhooks (id TEXT PRIMARY KEY)")
    cursor.execute("CREATE TABLE IF NOT EXISTS uploads (key TEXT PRIMARY KEY, size INTEGER)")


@csrf_exempt
@require_POST
def hook(request: HttpRequest) -> HttpResponse:
    """Verify a webhook, and store what it says once. Do slow work elsewhere, from the rows."""
    try:
        event = unwrap(request.body, request.headers, SECRETS)
    except InvalidWebhook as error:
        return HttpResponseBadRequest(str(error))
    # One transaction: if it fails, the service sends the webhook again.
    with transaction.atomic(), connection.cursor() as rows:
        rows.execute("INSERT INTO webhooks VALUES (%s) ON CONFLICT DO NOTHING", [event.id])
        if rows.rowcount:  # 0: a repeat
            store(event, rows)
    return HttpResponse(status=204)


def store(event: Event, rows: Any) -> None:
    """Store what a webhook says. Other types, and those of a later service, need no rows."""
    match event:
        case UploadStored(data=data):
            uploads = [(upload.key, upload.size) for upload in data.uploads]
            rows.executemany("REPLACE INTO uploads VALUES (%s, %s)", uploads)


urlpatterns = [path("hook", hook)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
