"""The root that jobs see: a small read-only tmpfs with Python's library, the system's shared libraries and three devices."""

from __future__ import annotations

import os
import shlex
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sandbox.native import kernel

JOB: Final = "/job"
"""Where a job's tmpfs is, with `work` (its folder) and `tmp`."""
DOOR: Final = f"{JOB}/tmp/door"  # noqa: S108 (of the job's own folder)
"""Where a new process finds the socket by which it connects to its supervisor, once."""
_DEVICES: Final = ("null", "zero", "urandom")
_LIBRARIES: Final = ("/lib", "/lib64", "/usr/lib64", "/usr/lib")
_SITE: Final = ("site-packages", "dist-packages", "test", "idlelib", "ensurepip")
PLAIN: Final = kernel.MS_NOSUID | kernel.MS_NODEV
# flags of a mount that an ordinary account may not take off again
_KEPT: Final = ((os.ST_NOEXEC, kernel.MS_NOEXEC), (os.ST_NODEV, kernel.MS_NODEV), (os.ST_NOSUID, kernel.MS_NOSUID))


def library_paths() -> list[str]:
    """Returns the folders and files of the host that are shown: Python's own library, and where shared libraries lie."""
    triplet = sysconfig.get_config_var("MULTIARCH") or ""
    found = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    shared = sysconfig.get_config_var("INSTSONAME") or ""
    libpython = Path(str(sysconfig.get_config_var("LIBDIR")), str(shared))
    if str(shared).startswith("libpython") and ".so" in str(shared) and libpython.is_file():
        found.add(os.path.realpath(libpython))
    for folder in _LIBRARIES:
        for path in (Path(folder, triplet) if triplet else Path(folder), *([Path(folder)] if "64" in folder else [])):
            if path.is_dir():
                found.add(os.path.realpath(path))
    return sorted(path for path in found if not any(path.startswith(other + "/") for other in found))


def loaders() -> list[str]:
    """Returns the program that the kernel starts to load a dynamic one, by its real path."""
    names = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")
    return [os.path.realpath(name) for name in names if Path(name).exists()]


def _bind(source: str, target: str, flags: int) -> None:
    kernel.mount(source, target, None, kernel.MS_BIND)
    kept = os.statvfs(target).f_flag
    for bit, flag in _KEPT:
        flags |= flag if kept & bit and not (flag == kernel.MS_NODEV and source.startswith("/dev/")) else 0
    kernel.mount("none", target, None, kernel.MS_BIND | kernel.MS_REMOUNT | flags)


GUEST: Final = "/holdfast"
"""Where a job finds the module by which it asks its run; for a shell, it is a program as well."""
MODULES: Final = "/node_modules"
"""Where Node finds the module by which it asks, from wherever a script lies."""
GUEST_FILES: Final = {
    f"{GUEST}/holdfast_guest.py": "holdfast_guest.py",
    f"{GUEST}/__main__.py": "command.py",
    f"{MODULES}/holdfast_guest/index.js": "holdfast_guest.cjs",
    f"{MODULES}/holdfast_guest/require.js": "require.cjs",
}
"""What lies in each job's root to ask its run by, and which file of `sandbox/guest` it is."""
COMMAND: Final = "holdfast-guest"
"""The program by which a shell's script asks its run."""

SITE: Final = "/packages"
"""Where a job finds the packages of its runtime."""
PROGRAMS: Final = "/usr/bin"
"""Where a job finds the programs of its runtime, and no others."""
_COPIED_MAX: Final = 4 * 2**20


def read_guest(source: str) -> dict[str, bytes]:
    """Returns what a job asks its run by, by where it finds it; `source` is the folder in which `sandbox` lies."""
    return {place: Path(source, "sandbox/guest", name).read_bytes() for place, name in GUEST_FILES.items()}


def build(root: str, guest: Mapping[str, bytes], site: str, programs: Mapping[str, str], interpreter: str = "") -> None:
    """Puts the root together at a folder. The caller is in a mount namespace of its own, from which nothing spreads.

    Args:
        root: The folder.
        guest: What a job asks its run by.
        site: Packages of the host, if there are any.
        programs: Programs of the host by their names in the root.
        interpreter: The Python that runs the command by which a shell asks; no other language has it.
    """
    kernel.mount("holdfast", root, "tmpfs", PLAIN, "size=64m,nr_inodes=1000,mode=0755")
    for name in ("etc", "dev", "job"):
        Path(root, name).mkdir(mode=0o755)
    lay_guest(root, guest)
    lay_runtime(root, site, programs)
    if interpreter:
        lay_command(root, interpreter)
    for path in library_paths():
        target = show(path, root)
        for name in _SITE:
            if Path(target, name).is_dir():
                kernel.mount("holdfast", f"{target}/{name}", "tmpfs", PLAIN | kernel.MS_RDONLY, "size=4k,mode=0755")
    for folder in _LIBRARIES:
        link = Path(root + folder)
        if Path(folder).is_symlink() and not link.exists():
            link.symlink_to(Path(folder).readlink())
    for name in _DEVICES:
        Path(root, "dev", name).touch()
        _bind(f"/dev/{name}", f"{root}/dev/{name}", kernel.MS_NOSUID | kernel.MS_NOEXEC)
    Path(root, "tmp").symlink_to(f"{JOB}/tmp")  # noqa: S108 (of the job's root; its own)
    Path(root, "work").symlink_to(f"{JOB}/work")
    Path(root, "etc/passwd").write_text("job:x:1000:1000::/job/work:/\n", encoding="ascii")
    Path(root, "etc/group").write_text("job:x:1000:\n", encoding="ascii")
    if Path("/etc/ld.so.cache").is_file():
        Path(root, "etc/ld.so.cache").write_bytes(Path("/etc/ld.so.cache").read_bytes())


def show(path: str, root: str) -> str:
    """Shows a folder or file of the host under its own name, read-only; returns where it is."""
    target = root + path
    if Path(path).is_dir():
        Path(target).mkdir(parents=True, exist_ok=True)
    else:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).touch()
    _bind(path, target, kernel.MS_RDONLY | PLAIN)
    return target


def lay_guest(root: str, guest: Mapping[str, bytes]) -> None:
    """Writes the modules by which a job asks its run."""
    for name in (GUEST, MODULES):
        Path(root + name).mkdir(mode=0o755)  # a host's folder of that name is in the way, and is not written to
    for place, content in guest.items():
        target = Path(root + place)
        target.parent.mkdir(mode=0o755, exist_ok=True)
        target.write_bytes(content)


def lay_command(root: str, interpreter: str) -> None:
    """Writes the command by which a shell asks its run, and shows the interpreter that runs it, where it finds its library."""
    show(interpreter, root)
    command = Path(root + PROGRAMS, COMMAND)
    command.write_text(f'#!{PROGRAMS}/sh\nexec {shlex.quote(interpreter)} -I -S -B {GUEST} "$@"\n', encoding="utf-8")
    command.chmod(0o755)


def lay_runtime(root: str, site: str, programs: Mapping[str, str]) -> None:
    """Shows packages and programs, which no job can change. Small programs are copied, without any bits that give rights."""
    if site:
        Path(root + SITE).mkdir(mode=0o755)
        _bind(site, root + SITE, kernel.MS_RDONLY | PLAIN)
    if not programs:
        return
    Path(root + PROGRAMS).mkdir(parents=True, mode=0o755)
    Path(root, "bin").symlink_to("usr/bin")
    for name, source in programs.items():
        target = Path(root + PROGRAMS, name)
        if Path(source).stat().st_size <= _COPIED_MAX:
            target.write_bytes(Path(source).read_bytes())
            target.chmod(0o755)
        else:
            target.touch()
            _bind(source, str(target), kernel.MS_RDONLY | PLAIN)


def build_whole(root: str, guest: Mapping[str, bytes], site: str, _: Mapping[str, str], __: str = "") -> None:
    """Shows the whole host in place of a small root: what it is to lack that layer."""
    kernel.mount("holdfast", root, "tmpfs", PLAIN, "size=1m,nr_inodes=1000,mode=0755")
    for entry in Path("/").iterdir():
        target = Path(root, entry.name)
        if entry.is_symlink():
            target.symlink_to(entry.readlink())
        elif entry.is_dir():
            target.mkdir()
            kernel.mount(str(entry), str(target), None, kernel.MS_BIND | kernel.MS_REC)
    Path(root, "job").mkdir(exist_ok=True)
    lay_guest(root, guest)
    if site:
        lay_runtime(root, site, {})


def enter(root: str, *, read_only: bool) -> None:
    """Makes the folder the root of this mount namespace, and lets go of the host's."""
    os.chdir(root)
    kernel.call("pivot_root", b".", b".")
    kernel.unmount(".")
    os.chdir("/")
    if read_only:
        kernel.mount("none", "/", None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | PLAIN)


def mount_job(disk_bytes: int, disk_files: int, uid: int, gid: int, *, sized: bool) -> int:
    """Mounts a job's tmpfs; returns a descriptor of it, through which the host reaches it after it has left this namespace."""
    size = f"size={disk_bytes},nr_inodes={disk_files + 3}," if sized else ""
    kernel.mount("holdfast", JOB, "tmpfs", PLAIN | kernel.MS_NOEXEC, f"{size}mode=0755")
    try:
        for name in ("work", "tmp"):
            path = f"{JOB}/{name}"
            os.mkdir(path, 0o700)  # noqa: PTH102 (every call counts here)
            os.chown(path, uid, gid)
        return os.open(JOB, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        kernel.unmount(JOB)
        raise
