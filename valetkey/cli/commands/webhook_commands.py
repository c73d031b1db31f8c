"""The commands for a developer who writes a receiver of webhooks: listen and trigger."""

import json
from base64 import b64encode
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import click

from valetkey.cli.commands import command_base
from valetkey.cli.event_listener import EventListener
from valetkey.cli.format_options import Decorator, format_option
from valetkey.cli.forwarding import ForwardResult, ForwardTarget, forward, parse_target
from valetkey.cli.terminal_text import escape_unprintable, format_table, terminal_columns
from valetkey.config import Config, load_config
from valetkey.crypto.keys import PrivateKey, derive_secret
from valetkey.errors import NotConfigured
from valetkey.session import new_id
from valetkey.webhook_examples import example_body
from valetkey.webhooks import sign
from valetkey.wire.events import EVENT_TYPES, EventType, RelayedEvent

_PURPOSE = b"valetkey webhooks listen"
_SUCCESS = range(200, 300)


def _parse_target(
    _context: click.Context, _param: click.Parameter, url: str | None
) -> ForwardTarget | None:
    try:
        return None if url is None else parse_target(url)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _forward_option(**options: Any) -> Decorator:
    return click.option(
        "--forward-to",
        metavar="URL",
        envvar="VALETKEY_FORWARD_TO",
        callback=_parse_target,
        **options,
    )


@click.group()
def webhooks() -> None:
    """Develop a receiver of webhooks at your desk: listen to events, and send examples."""


@webhooks.command()
@_forward_option(help="Post each event to this program on your machine, signed.")
@click.option(
    "--events",
    type=click.Choice(EVENT_TYPES),
    multiple=True,
    metavar="TYPE",
    help="Show and forward only events of this type; may be repeated.",
)
@click.option("--print-secret", is_flag=True, help="Print the secret that signs, and exit.")
@format_option("--json", "Write a JSON object for each event.")
def listen(
    forward_to: ForwardTarget | None, events: tuple[str, ...], *, print_secret: bool, **options: Any
) -> None:
    """Show the tenant's webhooks as they occur, and post them to a program on this machine.

    \b
    valetkey webhooks listen
    valetkey webhooks listen --forward-to http://127.0.0.1:3000/hook
    export VALETKEY_HOOK_SECRET=$(valetkey webhooks listen --print-secret)

    Needs the tenant's key: events are encrypted to it. They come over the connection to Redis that
    all commands use, beside the deliveries to endpoints, which stay as they are. There are events
    for the requests that name an endpoint with --callback, and of the types that it receives.

    Events are signed with a secret that follows from the key: it is the same each time. Events that
    occur while the connection is lost are named, and not sent. Ends with Ctrl-C.
    """
    with command_base.report_errors(options):
        config, key = _config_with_key()
        secret = _secret(key)
        if print_secret:
            click.echo(secret)
            return
        with closing(EventListener(config, key, _say)) as listener:
            for event in listener.events():
                if not events or event.type in events:
                    result = None if forward_to is None else _forward(event, forward_to, secret)
                    _show(event, result, options)


@webhooks.command()
@click.argument("event_type", type=click.Choice(EVENT_TYPES), metavar="TYPE")
@_forward_option(
    default="http://127.0.0.1:3000/hook", show_default=True, help="The program on your machine."
)
@format_option("--json", "Write a JSON object.")
def trigger(event_type: EventType, forward_to: ForwardTarget, **options: Any) -> None:
    """Post an example of a webhook to a program on this machine, signed as `listen` does.

    \b
    valetkey webhooks trigger upload.stored
    valetkey webhooks trigger grants.decided --forward-to http://127.0.0.1:8000/webhooks

    Its batch, keys and links do not exist. No service is needed, and nothing is recorded. Exits
    with 1 if the program responds with another status than 2xx, and with 3 if it does not respond.
    """
    with command_base.report_errors(options):
        _, key = _config_with_key()
        body = example_body(event_type, key.tenant).decode()
        event = RelayedEvent(number=0, id=f"example-{new_id()[-12:]}", type=event_type, body=body)
        result = _forward(event, forward_to, _secret(key))
        if result.problem is not None:
            host = f"{forward_to.host} port {forward_to.port}"
            raise command_base.NoResponseError(f"no response from {host}: {result.problem}")
        _show(event, result, options)
        if result.status not in _SUCCESS:
            click.get_current_context().exit(1)


def _config_with_key() -> tuple[Config, PrivateKey]:
    config = load_config({})
    if config.key is None:
        raise NotConfigured(
            "this needs the tenant's key, to which events are encrypted: set VALETKEY_KEY_FILE "
            "(`valetkey keygen TENANT` creates a key)"
        )
    return config, config.key


def _secret(key: PrivateKey) -> str:
    return f"whsec_{b64encode(derive_secret(key, _PURPOSE)).decode()}"


def _forward(event: RelayedEvent, target: ForwardTarget, secret: str) -> ForwardResult:
    body = event.body.encode()
    return forward(target, body, sign(body, event.id, datetime.now(UTC), secret))


def _say(text: str) -> None:
    lines = (escape_unprintable(line) for line in text.splitlines())
    click.echo("\n".join(lines), err=True)


def _show(event: RelayedEvent, result: ForwardResult | None, options: Mapping[str, Any]) -> None:
    """Print a line about an event, without its content, which has links."""
    now = datetime.now().astimezone()
    if options["output_format"] == "json":
        values = {"time": now.isoformat(), "type": event.type, "id": event.id}
        click.echo(json.dumps(values | ({} if result is None else result._asdict())))
        return
    cells = [f"{now:%H:%M:%S}", *([] if result is None else [result.words]), event.type, event.id]
    row = [escape_unprintable(cell) for cell in cells]
    click.echo("\n".join(format_table([row], terminal_columns())))
