"""The story as one HTML page that stands by itself: no scripts, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Final

from holdfast_verdict.verify.report import Report
from holdfast_verdict.verify.story import TOLD_MAX, chapters, summary, totals

_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1c2024;--paper:#fff;--soft:#667;--line:#dde;
--good:#0a6b3d;--bad:#b42318;--warn:#8a5a00}
@media (prefers-color-scheme:dark){:root{--ink:#e8e8ea;--paper:#15171a;--soft:#9aa;--line:#334;
--good:#4cc38a;--bad:#ff9592;--warn:#f1a10d}}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:var(--ink);background:var(--paper)}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem;overflow-wrap:anywhere}
.seal{border-left:.4rem solid;padding:.2rem 1rem}.good{border-color:var(--good)}.bad{border-color:var(--bad)}
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;
padding:.35rem .6rem .35rem 0;border-top:1px solid var(--line)}
td{overflow-wrap:anywhere}.allow{color:var(--good)}.deny,.wrong{color:var(--bad)}.needs_approval{color:var(--warn)}
.small{color:var(--soft);font-size:.85rem}
"""
_WORDS: Final = {"allow": "allowed", "deny": "refused", "needs_approval": "consent asked"}


def page(report: Report) -> str:
    """Returns the page."""
    title = "This audit bundle holds" if report.holds else "This audit bundle does not hold"
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>",
            f'<div class="seal {"good" if report.holds else "bad"}">',
            *(f"<p>{escape(sentence)}</p>" for sentence in summary(report)),
            "</div>",
            *_findings(report),
            *_story(report),
            "</body></html>\n",
        ]
    )


def _findings(report: Report) -> Iterator[str]:
    if report.findings:
        yield "<h2>What is wrong</h2><table><tr><th>Of what</th><th>What</th><th>What it means</th></tr>"
        for finding in report.findings:
            subject = escape(finding.subject) + (
                f' <span class="small">line {finding.line}</span>' if finding.line else ""
            )
            yield f'<tr><td class="wrong">{subject}</td><td>{escape(finding.wrong)}</td><td>{escape(finding.means)}</td></tr>'
        yield "</table>"


def _story(report: Report) -> Iterator[str]:
    if report.records > TOLD_MAX:
        yield "<h2>What happened</h2><table><tr><th>How many</th><th>What</th></tr>"
        yield from (f"<tr><td>{count}</td><td>{escape(what)}</td></tr>" for what, count in totals(report))
        yield "</table>"
        return
    for chapter in chapters(report):
        yield f"<h2>{escape(chapter.title)}</h2><table><tr><th>When</th><th>Verdict</th><th>What happened</th></tr>"
        for one in chapter.told:
            mark = "" if one.holds else ' <strong class="wrong">This record does not hold.</strong>'
            yield (
                f'<tr><td class="small">{escape(one.time)}</td><td class="{one.verdict}">{_WORDS[one.verdict]}</td>'
                f'<td>{escape(one.sentence)}{mark}<br><span class="small">{escape(one.decision_id)}</span></td></tr>'
            )
        yield "</table>"
