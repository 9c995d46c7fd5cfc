"""What an approver sees who opens a one-time link: pages that need no script, no picture and nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from api.forms import usd
from holdfast.approvals.links import Link
from holdfast.approvals.reading import ApprovalView
from holdfast_verdict.canonical import JsonValue, canonical_bytes

COMMENT_LENGTH_MAX: Final = 2_000

_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; }
h2 { font-size: 1.1rem; margin-top: 2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; }
dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
pre { padding: .75rem; border: 1px solid; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; }
th, td { border: 1px solid; padding: .35rem .6rem; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
textarea { width: 100%; min-height: 5rem; font: inherit; box-sizing: border-box; }
button { font: inherit; font-weight: 600; padding: .6rem 1.4rem; margin: .75rem .75rem 0 0; }
button { border: 2px solid; border-radius: .3rem; cursor: pointer; }
button:focus-visible, textarea:focus-visible { outline: 3px solid; outline-offset: 2px; }
.notice { border: 2px solid; padding: .5rem 1rem; font-weight: 600; }
"""
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "x-robots-tag": "noindex",
}
"""Nothing is loaded, framed, kept or told to where a reader goes next."""

_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def _visible(text: str) -> str:
    """Escapes a text; what would show nothing, or turn the direction of what does, is written as JSON writes it."""
    shown = "".join(
        letter if letter == "\n" or unicodedata.category(letter) not in _HIDDEN else json.dumps(letter)[1:-1]
        for letter in text
    )
    return html.escape(shown)


def _json(value: JsonValue | Mapping[str, JsonValue]) -> str:
    return _visible(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True))


def _time(at: datetime) -> str:
    at = at.astimezone(UTC)
    return f'<time datetime="{at:%Y-%m-%dT%H:%M:%SZ}">{at:%Y-%m-%d %H:%M:%S} UTC</time>'


def _whole(title: str, parts: Iterable[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_visible(title)} · Holdfast</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{_visible(title)}</h1>{''.join(parts)}</main></body></html>\n"
    )


def told(title: str, *sentences: str) -> str:
    """Returns a page that says something and asks for nothing."""
    return _whole(title, (f"<p>{_visible(sentence)}</p>" for sentence in sentences))


def asked(view: ApprovalView, link: Link, *, notice: str = "", comment: str = "") -> str:
    """Returns the page that asks.

    Args:
        view: What waits.
        link: In whose name it is decided, and until when.
        notice: What went wrong with the last answer, if something did.
        comment: What the approver wrote there.
    """
    name = str(view.action.get("tool") or view.action["kind"])
    title = f"Agent {view.agent} asks for consent to {name}"
    return _whole(title, [_notice(notice), *_about(view, link), *_action(view), _form(view, comment)])


def _notice(notice: str) -> str:
    return f'<p class="notice" role="alert">{_visible(notice)}</p>' if notice else ""


def _about(view: ApprovalView, link: Link) -> Iterable[str]:
    if view.message:
        yield f"<p>{_visible(view.message)}</p>"
    facts = {
        "You decide as": _visible(link.user),
        "Asked by": f"rule {_visible(view.rule)}, of whoever is {_visible(view.approver_role)}",
        "Run started by": _visible(view.requester),
        "What waits": f"step {view.step} of run <code>{view.run_id}</code> ({_visible(view.run_status)}), agent "
        f"{_visible(view.agent)} in the role {_visible(view.role)}, since {_time(view.created_at)}",
        "Cost at most": f"${usd(view.max_cost_nano_usd)}",
        "Request expires": _time(view.expires_at),
        "This link": f"decides once, until {_time(link.expires_at)}",
    }
    yield "<dl>"
    yield from (f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items())
    yield "</dl><h2>Whose consent is needed</h2><ul>"
    for seats in view.seats:
        need = f"{seats.need.count} of {seats.need.kind} {_visible(seats.need.name)}"
        met = f"given by {_visible(', '.join(seats.met_by))}" if seats.met_by else "none given"
        yield f"<li>{need}: {met}, {seats.missing} missing</li>"
    yield "</ul>"


def _action(view: ApprovalView) -> Iterable[str]:
    action = view.edited_action if view.edited_action is not None else view.action
    if view.changes:
        yield (
            "<h2>What an approver has changed</h2><table><thead><tr><th scope='col'>argument</th>"
            "<th scope='col'>the agent proposed</th><th scope='col'>in its place</th></tr></thead><tbody>"
        )
        for change in view.changes:
            before, after = (_json(value) for value in (change.before, change.after))
            yield (
                f"<tr><th scope='row'>{_visible(change.argument)}</th>"
                f"<td><del><code>{before}</code></del></td><td><ins><code>{after}</code></ins></td></tr>"
            )
        yield "</tbody></table>"
    yield f"<h2>Exactly what will be executed</h2><pre tabindex='0'><code>{_json(action)}</code></pre>"
    canonical = _visible(canonical_bytes(action).decode())
    yield f"<details><summary>As it is hashed</summary><pre><code>{canonical}</code></pre></details>"


def _form(view: ApprovalView, comment: str) -> str:
    return (
        '<h2>Your decision</h2><form method="post" accept-charset="utf-8">'
        f'<input type="hidden" name="binding" value="{view.binding.hex()}">'
        '<label for="comment">Your reason, which stands in the record (needed to deny)</label>'
        f'<textarea id="comment" name="comment" maxlength="{COMMENT_LENGTH_MAX}">{_visible(comment)}</textarea>'
        '<button type="submit" name="verdict" value="approved">Approve</button>'
        '<button type="submit" name="verdict" value="denied">Deny</button></form>'
    )
