"""The codes with which actions are refused, each with what is so and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

CODES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "json.syntax": ("The arguments are not JSON.", "Send one JSON object and nothing behind it."),
        "json.encoding": (
            "The JSON text is not UTF-8, or starts with a byte order mark.",
            "Send UTF-8 without a byte order mark.",
        ),
        "json.duplicate_key": (
            "A key stands twice in one object: readers keep different ones.",
            "Write each key once.",
        ),
        "json.key_name": (
            "A key is not printable ASCII, or starts with `$`, which is Holdfast's own.",
            "Rename the key.",
        ),
        "json.type": ("The arguments are not an object, or hold what JSON does not have.", "Send a plain JSON object."),
        "json.depth": ("The arguments are nested too deep.", "Send flatter arguments."),
        "json.size": ("The arguments are too large.", "Send less; large values belong into what tools read."),
        "number.range": (
            "A number has more digits than every reader keeps.",
            "Write fewer digits, or send it as text.",
        ),
        "number.fraction": ("A number has a fraction where only whole ones are taken.", "Write a whole number."),
        "number.not_finite": ("A number is infinite or no number at all.", "Write a finite number."),
        "text.nul": ("A text holds a NUL character, at which some readers stop.", "Leave it out."),
        "text.surrogate": (
            "A text holds half of a surrogate pair, which is no character.",
            "Write the whole character.",
        ),
        "text.marks": ("A letter carries more marks than anything readable has.", "Leave the marks out."),
        "text.invisible": (
            "An address, host, URL or path holds characters that cannot be seen, or that reorder what can.",
            "Leave them out.",
        ),
        "text.line": ("One line of text has a line break, or characters that reorder it.", "Leave them out."),
        "schema.unknown_field": ("A field is not described by the action's schema.", "Leave it out, or rename it."),
        "schema.missing_field": ("A required field is missing.", "Give it."),
        "schema.mismatch": ("A value is not what the action's schema describes.", "Correct it; the sentence says how."),
        "email.form": (
            "A text is not one bare mail address: it has a name, a list, quotes, a comment or a route.",
            "Write `name@example.com` with nothing around it.",
        ),
        "email.domain": ("What follows the @ is not a domain name.", "Write `name@example.com`."),
        "email.substitute": ("A mail address has characters that stand for others.", "Write the plain letters."),
        "email.mixed_scripts": (
            "A word of a mail address mixes letters of several scripts.",
            "Write it in one script.",
        ),
        "host.form": ("A text is not a host.", "Write a name such as `api.example.com`, an IPv4 address, or `[::1]`."),
        "host.number": (
            "A host is a number that some readers take for an address: decimal, octal, hexadecimal or shortened.",
            "Write four decimal numbers.",
        ),
        "host.substitute": (
            "A host has characters that stand for others, such as fullwidth letters or other dots.",
            "Write the plain letters, digits and dots.",
        ),
        "host.mixed_scripts": (
            "A label of a host mixes letters of several scripts, so that it looks like another.",
            "Write it in one script.",
        ),
        "host.embedded_address": (
            "An IPv6 address leads to the IPv4 address inside it.",
            "Write the IPv4 address itself.",
        ),
        "url.form": ("A text is not an absolute URL.", "Start it with `https://` and a host; percent-encode spaces."),
        "url.scheme": ("A URL has a scheme that is not taken here.", "Use `https://`."),
        "url.userinfo": ("A URL has a user name or password before its host.", "Leave out all up to the @."),
        "url.host_escape": ("The host of a URL is percent-encoded.", "Write its plain characters."),
        "url.port": ("A URL has a port that is none.", "Write 1 to 65535."),
        "url.backslash": ("A URL has a backslash, which some readers take for a slash.", "Write `/` or `%5C`."),
        "url.escape": ("A % in a URL is not followed by two hexadecimal digits.", "Write `%25` for a %."),
        "url.encoded_twice": ("The path of a URL is percent-encoded twice.", "Encode it once."),
        "url.control": ("The path of a URL has an encoded control character.", "Leave it out."),
        "url.dot_segment": ("The path of a URL hides a step upwards.", "Write the path that is meant."),
        "url.size": ("A URL is too long.", "Send long values in a body."),
        "path.form": (
            "A text is not a path, or has a scheme, drive or machine.",
            "Write a path such as `/srv/data/a.txt`.",
        ),
        "path.parent": (
            "A path has a step upwards, and links make it lead elsewhere.",
            "Write the path that is meant.",
        ),
        "path.backslash": ("A path has a backslash, which some readers take for a slash.", "Write `/`."),
        "path.home": ("A path starts with `~`, whose folder is not known here.", "Write the whole path."),
        "path.escape": ("A path is percent-encoded.", "Write the plain characters."),
        "path.trailing": (
            "A part of a path starts or ends with spaces or dots, which some systems drop.",
            "Leave them out.",
        ),
        "path.lookalike": ("A path has characters that look like slashes or dots.", "Write the plain characters."),
        "header.name": (
            "A name is none of a header, stands twice, or is one that only the sender's side sets.",
            "Leave it out, or write a name such as `accept`.",
        ),
        "header.value": ("A value is none of a header, such as one with a line break.", "Write one line of ASCII."),
        "date.form": ("A text is not a date, or not a date and time.", "Write `2026-01-31` or `2026-01-31T12:30:00Z`."),
        "decimal.form": ("A text is not a decimal number.", "Write `12.5`."),
        "uuid.form": ("A text is not a UUID.", "Write 8-4-4-4-12 hexadecimal digits."),
    }
)
"""Cause and remedy by code. `ActionRefused.code` is one of these or `action.unknown`."""
