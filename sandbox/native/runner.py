"""Runs a job's code as the main module of a process that is in all its layers, and leaves a report of how it ended."""

from __future__ import annotations

import ast
import atexit
import contextlib
import ctypes
import fcntl
import gc
import json
import linecache
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Final, NoReturn

REPORT_BYTES: Final = 65_536
_MESSAGE_MAX: Final = 4_000
_TRACEBACK_MAX: Final = 16_000
_HANDED_ON: Final = 100
"""From where on the descriptor lies by which a program asks: a script's own redirections are below."""
_FIRST: Final = "import time\nbegan = [str(each) for each in (1, 2)]\nif not began: print(time.monotonic_ns())\n"
_put_aside: list[ModuleType] = []
_exit: Final = os._exit  # whatever a job puts there


def rehearse() -> None:
    """Does what needs no job before there is one, and runs a first program: what that touches is this process's own by then."""
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (a descriptor, open as long as the process)
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False, buffering=1)  # noqa: SIM115 (as above)
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False, buffering=1)  # noqa: SIM115 (as above)
    known = [name for name in sys.modules if name == "sandbox" or name.startswith("sandbox.")]
    # no secret is in them, they are just not the job's; to take them apart would take the job's time
    _put_aside.extend(sys.modules.pop(name) for name in known)
    exec(compile(ast.parse(_FIRST, "first"), "first", "exec"), {})  # noqa: S102 (a constant)


def _text(value: object) -> str:
    """Returns a value's text; its class is the job's, and may raise anything."""
    with contextlib.suppress(BaseException):
        return str(value)
    return "<its text cannot be had>"


def _say(text: str) -> None:
    """Prints to standard error, if the job has left one."""
    with contextlib.suppress(BaseException):
        sys.stderr.write(text)


def _flush() -> None:
    """Writes what is buffered, as far as the job has left something to write it by."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()


def _report(address: int, error: BaseException, name: str) -> None:
    """Leaves what was raised where the sandbox reads it; of the traceback only what is the job's own."""
    summary = traceback.extract_tb(error.__traceback__)
    guest = sys.modules["holdfast_guest"].__file__
    own = [frame for frame in summary if frame.filename == name]
    line = own[-1].lineno if own else getattr(error, "lineno", 0) if isinstance(error, SyntaxError) else 0
    shown = "".join(traceback.format_list([frame for frame in summary if frame.filename not in (__file__, guest)]))
    last = "".join(traceback.format_exception_only(error))
    body = json.dumps(
        {
            "kind": type(error).__name__,
            "message": _text(error)[:_MESSAGE_MAX],
            "line": line or 0,
            "traceback": f"Traceback (most recent call last):\n{shown}{last}"[-_TRACEBACK_MAX:],
        }
    ).encode()
    if len(body) < REPORT_BYTES:
        ctypes.memmove(address, body + b"\0", len(body) + 1)
    _say(f"Traceback (most recent call last):\n{shown}{last}")


def _status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return int.__and__(code, 0xFF)
    _say(f"{_text(code)}\n")
    return 1


def _main_module(name: str) -> ModuleType:
    """A fresh main module; what the zygote had is put aside."""
    module = ModuleType("__main__")
    module.__dict__.update({"__file__": name, "__builtins__": __builtins__})
    sys.modules["__main__"] = module
    return module


def _connect_guest(link: int, token: object) -> None:
    """Hands the connection to the module that asks by it, or closes it if the owner takes no requests."""
    if not isinstance(token, str):
        os.close(link)
        return
    sys.modules["holdfast_guest"]._connect(link, token)


def _prepare(job: Mapping[str, object], link: int) -> ModuleType:
    """Makes the process into one that runs a program; returns its main module."""
    name = str(job["name"])
    arguments = job["arguments"]
    assert isinstance(arguments, list)  # so the sandbox writes it
    sys.argv = [name, *map(str, arguments)]
    sys.path[:] = ["/job/work", *sys.path]
    _connect_guest(link, job.get("token"))
    gc.enable()
    return _main_module(name)


def _run(code: str, name: str, module: ModuleType, address: int, *, shown: bool) -> int:
    """Runs code in a module; returns a status. If it ends with an expression, that is shown, as an interpreter does."""
    try:
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        tree, last = ast.parse(code, name), None
        if shown and tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body[-1].value)
            del tree.body[-1]
        exec(compile(tree, name, "exec"), module.__dict__)  # noqa: S102 (this is what the sandbox is for)
        if last is not None:
            sys.displayhook(eval(compile(last, name, "eval"), module.__dict__))  # noqa: S307 (as above)
    except SystemExit as end:
        return _status(end.code)
    except BaseException as error:  # noqa: BLE001 (whatever the code raises is its result)
        with contextlib.suppress(BaseException):  # what it is told by is the job's own as well
            _report(address, error, name)
        return 1
    return 0


def keep(
    job: Mapping[str, object],
    address: int,
    link: int,
    receive: Callable[[], Mapping[str, object]],
    send: Callable[[Mapping[str, object]], None],
) -> NoReturn:
    """Runs one cell after another in one module, until the sandbox has no more; `receive` then ends the process.

    INVARIANT: nothing of a job goes on in what its process was forked from.
    """
    status = 1
    try:
        module, own = _prepare(job, link), os.getpid()
        while True:
            cell = receive()
            ctypes.memset(address, 0, 1)  # what the last cell raised
            status = _run(str(cell["code"]), str(cell["name"]), module, address, shown=True)
            _flush()
            if os.getpid() != own:
                break  # it was forked in the cell, and came to its end
            send({"done": status})
    finally:
        _exit(status)


def _hand_on(link: int, token: object) -> None:
    """Leaves the connection to the program that this process becomes, or closes it if the owner takes no requests."""
    if isinstance(token, str):
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        kept = fcntl.fcntl(link, fcntl.F_DUPFD, min(_HANDED_ON, descriptors - 1))
        os.environ["HOLDFAST_GUEST"] = f"{kept}:{token}"
    os.close(link)


def become(job: Mapping[str, object], link: int) -> NoReturn:
    """Becomes the program that runs the code: a shell or Node, in the same layers."""
    _hand_on(link, job.get("token"))
    command, arguments = job["command"], job["arguments"]
    assert isinstance(command, list)  # so the sandbox writes it
    assert isinstance(arguments, list)  # as above
    path = f"/job/tmp/{job['name']}"
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and what it ignores stays ignored
        signal.signal(number, signal.SIG_DFL)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "w", encoding="utf-8", errors="surrogatepass") as file:  # noqa: PTH123 (a descriptor)
            file.write(str(job["code"]))
        for descriptor in (1, 2):
            os.set_inheritable(descriptor, True)
        os.execv(command[0], [*command, path, *map(str, arguments)])  # noqa: S606 (this is what the sandbox is for)
    except (OSError, ValueError) as error:
        os.write(2, f"the program could not be started: {error}\n".encode())
    os._exit(127)


def execute(job: Mapping[str, object], address: int, link: int) -> NoReturn:
    """Runs the code; ends the process with its status, with all that is buffered written and its threads waited for.

    INVARIANT: nothing of a job goes on in what its process was forked from.
    """
    status = 1
    try:
        module = _prepare(job, link)
        status = _run(str(job["code"]), str(job["name"]), module, address, shown=False)
        threading._shutdown()  # type: ignore[attr-defined]  # as the interpreter does when a program ends: waits for its threads
        atexit._run_exitfuncs()
        _flush()
    finally:
        _exit(status)
