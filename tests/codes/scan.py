"""Finds every text in the sources that is, or builds, a stable code: read from the syntax trees, so that none can hide.

Whatever looks like a code (`noun.what_is_so`) counts as one unless where it stands says that it is something else: the name of
a log line, an event's type, a kind of action, a file. A text of a form nobody has seen before is therefore a finding.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final, get_args

from holdfast.contracts.run import MarkRun
from holdfast.providers.model import Channel
from holdfast.timeline.follow import ALWAYS_SENT
from holdfast.tools.registry import TOOLS
from tests.syntax import parsed

ROOT: Final = Path(__file__).resolve().parents[2]
ROOMS: Final = (
    "holdfast_verdict",
    "holdfast",
    "sandbox",
    "activities",
    "workflows",
    "workers",
    "api",
    "cli",
    "sdk",
)
_LEFT_OUT: Final = ("holdfast/codes/", "cli/simulated_provider/", "cli/telling.py", "sandbox/native/cgroups.py")
"""The catalogue itself, a program that plays another's part (its words are those of the providers' wires), what says events, and what
names the kernel's files."""

_CODE: Final = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)+")
_BUILT: Final = re.compile(r"(?:[a-z0-9_]|\{[^{}]*\})+(?:\.(?:[a-z0-9_]|\{[^{}]*\})+)+")
_WORD: Final = re.compile(r"[a-z_]+")
_HALF: Final = re.compile(r"[a-z_]+\.|\.[a-z_]+")
_FILE: Final = re.compile(
    r".*\.(?:key|pub|pem|json|jsonl|log|conf|cfg|ini|env|toml|ya?ml|lock|db|pid|sql|py|md|txt|csv|html|c?js|css|svg|eml|so|zip|whl"
    r"|lark|new|old|part|sock|tar|gz|dump|sh|dylib|password|crt|lck)"
)
_LOG_METHODS: Final = frozenset({"debug", "info", "warning", "error", "exception", "critical"})
_LOGGERS: Final = frozenset({"log", "_log", "logger", "_logger"})
_NO_CODES_TO: Final[Mapping[str, frozenset[int]]] = MappingProxyType(
    {
        "failpoint": frozenset({0}),  # places where tests kill a process
        "Event": frozenset({0, 1}),  # channel and type: docs/reference/events.md lists them
        "StreamEvent": frozenset({3, 4}),
        "get_logger": frozenset({0}),
        "getLogger": frozenset({0}),
        "import_module": frozenset({0}),
        "find_spec": frozenset({0}),
        "text": frozenset({0}),
    }
)
"""Positions of arguments that are never codes, by the name of what is called."""
_NO_CODES_FOR: Final = frozenset({"kind", "credential", "examples", "pattern", "prog", "default_kind"})
"""Names of keywords and dictionary keys whose values are never codes."""
_STARTS: Final = frozenset({*ROOMS, "temporalio", "demo", "bench", "docs", "uvicorn", "asyncio", "os", "e", "i"})
"""First words of modules' names (and of `e.g.`)."""
_OTHER: Final[Mapping[str, str]] = MappingProxyType(
    {
        "llm.call": "kind of action",
        "starter.policy": "a file",
        "tool.call": "kind of action",
        "code.exec": "kind of action",
        "kb.search": "kind of action",
        "agent.spawn": "kind of action",
        "run.budget": "kind of hold",
        "run.admission": "kind of decision",
        "hold.resolution": "kind of decision",
        "audit.export": "kind of decision",
        "http.request": "tool, and message of ASGI",
        "http.response.start": "message of ASGI",
        "http.response.body": "message of ASGI",
        "http.disconnect": "message of ASGI",
        "example.org": "host of examples",
        "www.example.net": "host of examples",
        "policy.gate": "code of a gate's rule; decisions say approval.required",
        "step.try": "heading of a column",
        "anthropic.resources.messages": "module",
        "openai.resources.chat.completions": "module",
        "answer.final": "event",
        "tool.result": "event",
        "code.result": "event",
        "code.delta": "event",
        "hold.settled": "event",
        "hold.unknown": "event",
        "cap.threshold": "event",
        "webhook.test": "event",
    }
)
"""Texts that are something else wherever they stand."""
_PLACE: Final = re.compile(r"(?:\{path\}|\{place\}|principal|zones|history|estimate|engine)\..+")
"""Places in documents, names of facts, and modules of the deciding core."""
_EVENTS: Final = ALWAYS_SENT | {f"{channel}.delta" for channel in get_args(Channel)}


@dataclass(frozen=True, slots=True)
class Found:
    """A text that is a code, or an f-string that builds some: `text` then has its expressions in braces."""

    text: str
    path: str
    line: int

    @property
    def built(self) -> bool:
        return "{" in self.text

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


def _parents(tree: ast.AST) -> dict[ast.AST, ast.AST]:
    return {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}


def _called(call: ast.Call) -> str:
    function = call.func
    return (
        function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
    )


def _is_log(call: ast.Call) -> bool:
    function = call.func
    if not isinstance(function, ast.Attribute) or function.attr not in _LOG_METHODS:
        return False
    owner = function.value
    if isinstance(owner, ast.Call):
        return _called(owner) in ("get_logger", "getLogger")
    name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
    return name in _LOGGERS


def _is_something_else(node: ast.AST, parents: Mapping[ast.AST, ast.AST]) -> bool:
    """Says whether the place where a text stands makes it something other than a code."""
    parent = parents.get(node)
    while isinstance(parent, ast.IfExp | ast.Tuple | ast.Set | ast.List):
        node, parent = parent, parents.get(parent)
    if isinstance(parent, ast.Expr | ast.JoinedStr | ast.FormattedValue):
        return True  # a docstring, or a part of an f-string, which is looked at as a whole
    if isinstance(parent, ast.Call):
        if node is parent.func:
            return True
        if _is_log(parent):
            return True
        position = parent.args.index(node) if isinstance(node, ast.expr) and node in parent.args else -1
        return position in _NO_CODES_TO.get(_called(parent), frozenset())
    if isinstance(parent, ast.keyword):
        call = parents.get(parent)
        return parent.arg in _NO_CODES_FOR or (isinstance(call, ast.Call) and _is_log(call) and parent.arg != "code")
    if isinstance(parent, ast.Dict):
        for key, value in zip(parent.keys, parent.values, strict=True):
            if value is node:
                return isinstance(key, ast.Constant) and key.value in _NO_CODES_FOR
    return False


def _text(node: ast.AST) -> str:
    """Returns a constant's text, or what is put together with its expressions in braces; empty if it is neither."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(
            "{" + ast.unparse(part.value) + "}" if isinstance(part, ast.FormattedValue) else _text(part)
            for part in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [side for side in (node.left, node.right) if isinstance(side, ast.Constant)]
        if any(isinstance(side.value, str) and _HALF.fullmatch(side.value) for side in sides):
            return "".join(_text(side) or "{" + ast.unparse(side) + "}" for side in (node.left, node.right))
    return ""


def _looks_like_a_code(text: str) -> bool:
    if _FILE.fullmatch(text) or _PLACE.fullmatch(text) or text in _OTHER or text in TOOLS:
        return False
    if "{" in text:
        if text.endswith("}.delta"):
            return False  # an event of a channel
        words = re.sub(r"\{[^{}]*\}", "{}", text).split(".")
        return _BUILT.fullmatch(text) is not None and any(_WORD.fullmatch(word) for word in words)
    return _CODE.fullmatch(text) is not None and text.partition(".")[0] not in _STARTS


def scan_tree(tree: ast.AST, path: str) -> Iterator[Found]:
    """Yields what one file has."""
    parents = _parents(tree)
    for node in ast.walk(tree):
        text = _text(node)
        keyword = parents.get(node)
        stands_as_code = isinstance(keyword, ast.keyword) and keyword.arg in ("code", "error_code") and text
        if not text or not (_looks_like_a_code(text) or stands_as_code) or _is_something_else(node, parents):
            continue
        if text in _EVENTS and not stands_as_code and isinstance(keyword, ast.Set | ast.Assign | ast.AnnAssign):
            continue
        yield Found(text, path, getattr(node, "lineno", 0))


def _trees() -> Iterator[tuple[ast.AST, str]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            if not name.startswith(_LEFT_OUT):
                yield parsed(path), name


@cache
def events() -> frozenset[str]:
    """Returns the types of events that are written: who reads them names them, and they are no codes."""
    found = set(_EVENTS) | {f"run.{status}" for status in get_args(MarkRun.model_fields["status"].annotation)}
    for script in sorted((ROOT / "holdfast/database/migrations").rglob("*.sql")):
        for told in re.findall(
            r"tell_approval\((.*?)jsonb_build_object", script.read_text(encoding="utf-8"), re.DOTALL
        ):
            found |= set(re.findall(r"'([a-z]+\.[a-z_]+)'", told))
    for tree, _ in _trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _called(node) == "Event" and len(node.args) > 1:
                found |= {text for each in ast.walk(node.args[1]) if _CODE.fullmatch(text := _text(each))}
    return frozenset(found)


@cache
def scan() -> tuple[Found, ...]:
    """Returns what all rooms have."""
    return tuple(found for tree, name in _trees() for found in scan_tree(tree, name))
