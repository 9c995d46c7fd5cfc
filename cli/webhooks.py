"""`holdfast webhooks`: who is told, signed, of what happens; and whether it arrives."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli.session import Session, refuse_options, with_session
from cli.terminal import EXIT_CODES_HELP
from holdfast.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdk import Delivery, Webhook

_PATIENCE_S: Final = 15.0
_LOOK_EVERY_S: Final = 0.2

WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Id of a webhook.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(epilog=EXIT_CODES_HELP, invoke_without_command=True)
    group.callback(invoke_without_command=True)(webhooks)
    for command in (add, show, enable, remove):
        group.command(epilog=EXIT_CODES_HELP)(command)
    group.command("test", epilog=EXIT_CODES_HELP)(try_)
    app.add_typer(group, name="webhooks")


@with_session
def webhooks(session: Session, context: typer.Context) -> None:
    """Lists the webhooks of the tenant, newest first."""
    if context.invoked_subcommand is not None:
        refuse_options(context)
        return
    found = session.client.webhooks()
    rows = ([one.webhook_id, one.url, ",".join(one.events), _state(one)] for one in found)
    session.show_table(found, ["webhook", "url", "events", "state"], rows, "nobody is told of anything")


def _state(one: Webhook) -> str:
    if one.disabled_at is None:
        return "on"
    return f"off since {one.disabled_at:%Y-%m-%d %H:%M}: {one.disabled_reason}"


@with_session
def add(
    session: Session,
    receiver: Annotated[str, typer.Argument(metavar="URL", help="Where it is told; https.")],
    event: Annotated[
        list[str],
        typer.Option(
            metavar="TYPE",
            help="Of what, such as `approval.requested`, `hold.unknown`, `cap.threshold`; can be given several times.",
        ),
    ],
    description: Annotated[str, typer.Option(metavar="TEXT", help="For people.")] = "",
) -> None:
    """Adds a webhook and shows the public key that checks its signatures."""
    made = session.client.add_webhook(receiver, event, description=description)
    # the sender makes its key known when it first sees the webhook
    deadline = time.monotonic() + _PATIENCE_S
    while not made.public_key and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_S)
        made = session.client.webhook(made.webhook_id)
    session.show(made, lambda: _told(made))


def _told(made: Webhook) -> Iterator[str]:
    yield f"{made.url} is told of {', '.join(made.events)}"
    yield f"webhook    {made.webhook_id}"
    key = made.public_key or f"nobody sends yet; later: holdfast webhooks show {made.webhook_id}"
    yield f"public key {key}"
    yield f"try it with `holdfast webhooks test {made.webhook_id}`"


@with_session
def show(
    session: Session,
    webhook_id: WebhookId,
    limit: Annotated[int, typer.Option(min=1, help="Most deliveries.")] = 20,
) -> None:
    """Shows a webhook and what became of what was sent to it, newest first."""
    one = session.client.webhook(webhook_id)
    sent = session.client.deliveries(webhook_id, count=limit)
    answer = {"webhook": one, "deliveries": sent}
    session.show(answer, lambda: _shown(one, sent))


def _shown(one: Webhook, sent: list[Delivery]) -> Iterator[str]:
    yield f"{one.url}, {_state(one)}"
    yield f"events     {', '.join(one.events)}"
    yield f"public key {one.public_key or 'not known yet'}"
    if one.description:
        yield one.description
    for delivery in sent:
        yield f"{delivery.created_at:%Y-%m-%d %H:%M:%S}  {delivery.type:<20} {_outcome(delivery)}  {delivery.delivery_id}"
    if not sent:
        yield "nothing was sent yet"


def _outcome(delivery: Delivery) -> str:
    attempts = "1 attempt" if delivery.attempts == 1 else f"{delivery.attempts} attempts"
    if delivery.state == "delivered":
        return f"delivered, {attempts}"
    wrong = f": {delivery.error}" if delivery.error else ""
    if delivery.state == "given_up":
        return f"given up, {attempts}{wrong}"
    due = f"{delivery.due_at:%H:%M:%S}" if delivery.due_at else "soon"
    return f"waiting, {attempts}, next at {due}{wrong}"


@with_session
def try_(session: Session, webhook_id: WebhookId) -> None:
    """Sends a test and waits for what comes of it."""
    delivery_id = session.client.try_webhook(webhook_id)
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        sent = next(one for one in session.client.deliveries(webhook_id, count=200) if one.delivery_id == delivery_id)
        if sent.state != "waiting" or sent.error:
            break
        if time.monotonic() > deadline:
            raise Unavailable("nobody has sent the test yet", remedy="see whether a governor runs: `holdfast doctor`")
        time.sleep(_LOOK_EVERY_S)
    session.show(sent, lambda: [_outcome(sent)])
    if sent.state != "delivered":
        raise typer.Exit(1)


@with_session
def enable(session: Session, webhook_id: WebhookId) -> None:
    """Switches a webhook on again that was given up, and sends once more what was given up with it."""
    one, again = session.client.enable_webhook(webhook_id)
    answer = {"webhook": one, "sent_again": again}
    session.show(answer, lambda: [f"{one.url} is told again; {again} that had been given up are tried once more"])


@with_session
def remove(session: Session, webhook_id: WebhookId) -> None:
    """Removes a webhook; what waits for it is not sent any more."""
    session.client.remove_webhook(webhook_id)
    session.show({"removed": webhook_id}, lambda: [f"webhook {webhook_id} is removed"])
