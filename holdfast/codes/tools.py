"""Codes with which a tool call ends badly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from holdfast.codes.entry import Code, Place, result

SERVICES: Final = ("payments", "account")
"""First words of the tools that call the payments and accounts service."""


def _service(noun: str) -> Iterator[Code]:
    """Yields the codes of a service that is called over HTTP with an Idempotency-Key."""
    yield result(
        f"{noun}.unavailable",
        "The service cannot be reached; nothing was done.",
        "Nothing at first: it is tried again. Check the `base_url` in the vault, and whether the service is up.",
    )
    yield result(
        f"{noun}.rate_limited",
        "The service takes no more requests for now; nothing was done.",
        "Nothing at first: it is tried again when the service says so.",
    )
    yield result(
        f"{noun}.refused",
        "The service refused the request; nothing was done.",
        "Read its sentence; a wrong `api_key` in the vault looks like this, too.",
    )
    yield result(
        f"{noun}.failed",
        "The service failed inside; it may have been done.",
        "Nothing at first: it is tried again under the same Idempotency-Key, so it is not done twice.",
    )
    yield result(
        f"{noun}.answer_lost",
        "The request went out, and its answer was lost; it may have been done.",
        "Nothing at first: it is tried again under the same Idempotency-Key. Else see `outcome.unknown`.",
    )
    yield result(
        f"{noun}.answer_unreadable",
        "The service said that it was done, in words that are no JSON object.",
        "Check the `base_url` in the vault: something else may answer there.",
    )
    yield result(
        f"{noun}.unexpected",
        "The service answered with a status that is neither success nor refusal, such as a redirect.",
        "Put the service's final address into the vault; redirects are not followed.",
    )


CODES: Final = (
    result(
        "tool.unknown",
        "The executor does not know the tool that was decided on.",
        "Bring executors and governors to the same version.",
    ),
    result(
        "tool.arguments_altered",
        "The arguments are not in the form that was decided, so nothing was executed.",
        "Bring executors and governors to the same version; if they are, somebody altered what was sent.",
    ),
    result(
        "tool.failed",
        "The tool raised an error inside; the sentence says whether anything can have gone outside.",
        "Read the executor's log for the traceback, and mend the tool.",
    ),
    result(
        "tool.timeout",
        "The tool did not answer in time.",
        "Give tools more time (`HOLDFAST_LEASE_TOOL_MS`), or find out why its system is slow.",
    ),
    result(
        "mail.unreadable",
        "A stored mail is not there, or is nothing that can be shown.",
        "Nothing: the model reads it. Look at the maildir if the mail should be there.",
    ),
    result(
        "mail.inbox_unavailable",
        "The inbox cannot be read.",
        "Check the maildir's path in the vault entry `tool.mail`, and the executor's rights on it.",
    ),
    result(
        "mail.server_unavailable",
        "The mail server did not answer; nothing was sent.",
        "Nothing at first: it is tried again. Check host and port in the vault entry `tool.mail`.",
    ),
    result(
        "mail.refused",
        "The mail server refused the mail; nothing was sent, to any recipient.",
        "Read the server's reply code: a wrong sender, a recipient that does not exist, or too many mails.",
    ),
    result(
        "mail.answer_lost",
        "The mail was handed over, and the server's answer was lost; it may have been sent.",
        "Look into the server's log, then say so with `holdfast holds resolve`. It is not sent again by itself.",
    ),
    result(
        "orders.not_found",
        "The tenant has no such order, or it is not the caller's to see.",
        "Nothing: the model reads it.",
    ),
    result(
        "orders.unavailable",
        "The order database does not answer.",
        "Nothing at first: it is tried again. Check the `dsn` in the vault entry `tool.orders`.",
    ),
    result(
        "http.method_refused",
        "The vault entry `tool.http` does not list this method.",
        "Add it to `methods`, if the agent is meant to use it.",
    ),
    result(
        "http.host_refused",
        "The host is not among `allowed_hosts` of the vault entry `tool.http`; nothing was sent.",
        "Add it, if the agent is meant to reach it; a rule on `args.url` narrows further.",
    ),
    result(
        "http.unresolved",
        "The host's name cannot be resolved; nothing was sent.",
        "Check the name, and the executor's name server.",
    ),
    result(
        "http.address_refused",
        "The host's name leads to an address that is not public; nothing was sent.",
        "Nothing, if it was an attack on your inside. In sealed networks `allow_private` lets such addresses pass.",
    ),
    result(
        "http.unreachable",
        "The host cannot be reached; nothing was sent.",
        "Nothing at first: it is tried again. Check firewall and certificate.",
    ),
    result(
        "http.answer_lost",
        "The request was sent, and its answer was lost.",
        "A GET is tried again by itself; for all else find out what happened, and say so with `holdfast holds resolve`.",
    ),
    result(
        "http.status",
        "The host answered with a status of 400 or more.",
        "Nothing: the model reads status and body.",
    ),
    result(
        "tool.refused",
        "A tool in Python said that it did nothing, and why.",
        "Nothing: the model reads its sentence.",
    ),
    result(
        "tool.died",
        "The process of a tool in Python ended without an answer: it was killed, ran out of time or of memory.",
        "Look into the tool. If it had begun, its hold may wait for somebody to say what happened: `holdfast holds resolve`.",
    ),
    result(
        "tool.not_installed",
        "The executor has no package with this tool, registered with the function that the definition names; nothing was done.",
        "Install the tool's package where executors run, and apply the project again if its entry point has changed.",
    ),
    result(
        "tool.arguments_refused",
        "A type of the tool's function does not take an argument that its JSON Schema lets pass, such as a Decimal out of its bounds; "
        "nothing was done.",
        "Nothing: the model reads it.",
    ),
    result(
        "tool.definition_mismatch",
        "The installed function takes other arguments than those that were decided on, or is marked as less harmless; "
        "nothing was done.",
        "Apply the project again, so that new runs get the new definition, or install the version that was defined.",
    ),
    result(
        "openapi.argument_refused",
        "An argument would not stay in its place in the address or a header, such as one with a `/` in a path; nothing was sent.",
        "Nothing: the model reads it, and can write another one.",
    ),
    result(
        "openapi.credential_clash",
        "The credential's header or member of the query is one that an argument or the idempotency key goes into.",
        "Put the tool without that argument, or change `auth` in the vault entry.",
    ),
    result(
        "openapi.unresolved",
        "The name of the service's host cannot be resolved; nothing was sent.",
        "Nothing at first: it is tried again. Check `base_url` in the vault entry, and the name server.",
    ),
    result(
        "openapi.address_refused",
        "The service's host leads to an address that is not public; nothing was sent.",
        "If it is meant to be on a private network, set `allow_private` in the vault entry.",
    ),
    result(
        "openapi.unreachable",
        "The service cannot be reached; nothing was sent.",
        "Nothing at first: it is tried again. Check `base_url` in the vault entry, and whether the service is up.",
    ),
    result(
        "openapi.answer_lost",
        "The request was sent and its answer was lost; unless the tool only reads, it may have been done.",
        "Look at the service: see `outcome.unknown`. What only reads, or is idempotent, is tried again by itself.",
    ),
    result(
        "openapi.rate_limited",
        "The service takes no more requests for now; nothing was done.",
        "Nothing at first: it is tried again when the service says so.",
    ),
    result(
        "openapi.refused",
        "The service answered with a status from 400 to 499.",
        "Nothing: the model reads the answer. With 401 or 403, check `auth` in the vault entry.",
    ),
    result(
        "openapi.redirected",
        "The service answered with a redirect, which is not followed.",
        "Put the service's final address into the vault entry.",
    ),
    result(
        "openapi.failed",
        "The service failed inside or gave up; unless the tool only reads, it may have been done.",
        "Look at the service: see `outcome.unknown`. What only reads, or is idempotent, is tried again by itself.",
    ),
    result(
        "sql.unavailable",
        "The database of an SQL tool does not answer, or refuses the login.",
        "Nothing at first: it is tried again. Check the `dsn` in the vault, and whether the server is up.",
    ),
    result(
        "sql.timeout",
        "The query took longer than its tool allows, and was ended.",
        "Nothing at first: it is tried again. Else make the query cheaper, or raise the tool's `timeout_ms`.",
    ),
    result(
        "sql.failed",
        "The database refused the statement: a table or a right is missing, or it is no SQL.",
        "Try the tool's statement by hand as the same database role.",
    ),
    result(
        "sql.arguments_refused",
        "The database could not use an argument, such as a number out of its range.",
        "Nothing: the model reads it. Bound the argument in the tool's definition.",
    ),
    result(
        "sql.not_read_only",
        "The statement would have changed something; nothing was changed.",
        "Make a tool of another kind for what changes things: SQL tools only read.",
    ),
    result(
        "sql.not_a_query",
        "The statement returns no columns, so it is not for reading.",
        "Write a SELECT.",
    ),
    result(
        "sql.statement_mismatch",
        "The statement has other parameters than the tool has arguments; nothing was run.",
        "Put the tool again with `$1`, `$2` … for its arguments, or by `holdfast apply`, which numbers them.",
    ),
    result(
        "sql.tenant_changed",
        "Something that the statement calls set `holdfast.tenant` to another tenant; its rows are shown to nobody.",
        "Take away the database role's right to execute that function.",
    ),
    result(
        "sql.role_too_powerful",
        "The tool's database role may do more than read: it is or may become a superuser, passes by row-level security, makes roles or "
        "databases, replicates, or may do what no rollback undoes; nothing was run.",
        "Put the `dsn` of a role that may only read into the vault.",
    ),
    *(code for noun in SERVICES for code in _service(noun)),
    Code(
        "payments.answer_contradicts",
        (Place.RESULT,),
        "The payments service confirmed something other than what was asked.",
        "Look into the service: its hold stays until somebody says what happened, `holdfast holds resolve`.",
    ),
)
