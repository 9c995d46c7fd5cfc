"""Environments: packages that jobs may import, each made once from a lock, in a folder that jobs can only read.

A lock is a list of exact versions with the digest of every file. Only wheels are taken: unpacking one runs nothing of it, while a
source distribution runs its author's code to be built. What is built is not the platform's environment and is never imported by it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.errors import EnvironmentFailed, LockInvalid

DATA: Final = "data"
_PREFIX: Final = "environment-"
_BUILDING: Final = ".building-"
_GUEST: Final = "holdfast_guest"
_LOCK_BYTES_MAX: Final = 2**20
_PACKAGES_MAX: Final = 200
_LOOK_S: Final = 0.2
_SAID_MAX: Final = 2_000
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_REQUIREMENT: Final = re.compile(rf"(?P<name>{_NAME})==(?P<version>[A-Za-z0-9.!+_-]+)(?P<marker>\s*;[^@]*)?")
_HASH: Final = re.compile(r"--hash=sha256:[0-9a-f]{64}")
_PASSED_ON: Final = re.compile(
    r"(UV_(DEFAULT_INDEX|INDEX_URL|INDEX|EXTRA_INDEX_URL|FIND_LINKS|CACHE_DIR|CONFIG_FILE|HTTP_TIMEOUT|NATIVE_TLS|SYSTEM_CERTS|OFFLINE)"
    r"|SSL_CERT_FILE|SSL_CERT_DIR|(?i:https?_proxy|no_proxy|all_proxy)|HOME|XDG_(CONFIG|CACHE)_HOME|PATH)"
)
# what packages are built for: it goes into the name, for jobs of another Python cannot use them
_BUILT_FOR: Final = f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}"


def own_python() -> str:
    """Returns this interpreter itself: not that of a virtual environment, whose packages are not the jobs' business."""
    return str(Path(sys.executable).resolve())


def data_lock() -> str:
    """Returns the lock of the runtime `data`."""
    return (Path(__file__).parent / "runtimes/data.txt").read_text(encoding="utf-8")


def digest_of(lock: str) -> str:
    """Returns the digest by which jobs name an environment: that of its lock."""
    return hashlib.sha256(lock.encode()).hexdigest()


def default_folder() -> Path:
    """Returns where environments are kept if nothing else is said."""
    import platformdirs  # only where nothing is said: the sandbox itself runs with Python's library alone

    return platformdirs.user_data_path("holdfast") / "environments"


def check_lock(lock: str) -> int:
    """Returns how many packages a lock names.

    Raises:
        LockInvalid: If it is not a list of exact versions with digests and nothing else.
    """
    if len(lock.encode()) > _LOCK_BYTES_MAX:
        raise LockInvalid(f"a lock may have {_LOCK_BYTES_MAX} bytes")
    lines = [line.split(" #")[0].strip() for line in lock.replace("\\\n", " ").splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    for line in found:
        named, *hashes = re.split(r"\s+(?=--)", line)
        if _REQUIREMENT.fullmatch(named.strip()) is None:
            raise LockInvalid(f"a lock has lines such as `numpy==2.4.6 --hash=sha256:…`, and not {line[:80]!r}")
        if not hashes or any(_HASH.fullmatch(each.strip()) is None for each in hashes):
            raise LockInvalid(f"{named[:80]!r} has no digest of its files, or something else besides")
    if not 0 < len(found) <= _PACKAGES_MAX:
        raise LockInvalid(f"a lock names between 1 and {_PACKAGES_MAX} packages, and not {len(found)}")
    return len(found)


@dataclass(frozen=True, slots=True)
class Environment:
    """One that is built.

    Attributes:
        digest: That of its lock.
        folder: Where it is.
        size_bytes: Its size.
        used_at: When a sandbox took it last, as a Unix time.
        data: Whether it is the runtime `data`.
    """

    digest: str
    folder: Path
    size_bytes: int
    used_at: float
    data: bool


class Environments:
    """The environments of one folder.

    Args:
        folder: Where they are; an account's own folder for data if nothing is said.
        bytes_max: What one may have.
        kept_max: How many are kept; those that were not used for longest go first, and none that is in use.
    """

    def __init__(self, folder: Path | None = None, *, bytes_max: int = 2 * 2**30, kept_max: int = 20) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._kept_max = kept_max

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self._folder or default_folder()

    def _path(self, digest: str) -> Path:
        return self.folder / f"{_PREFIX}{_BUILT_FOR}-{digest}"

    def find(self, lock: str) -> Path | None:
        """Returns the packages of a lock, if they are there."""
        return self.find_digest(digest_of(lock))

    def find_digest(self, digest: str) -> Path | None:
        """Returns the packages of the lock with a digest, if they are there."""
        if _DIGEST.fullmatch(digest) is None:
            return None
        site = self._path(digest) / "site"
        return site if site.is_dir() else None

    def list(self) -> list[Environment]:
        """Returns those that are built for this Python."""
        found = []
        data = digest_of(data_lock())
        for folder in sorted(self.folder.glob(f"{_PREFIX}{_BUILT_FOR}-*")):
            digest = folder.name.rpartition("-")[2]
            with contextlib.suppress(FileNotFoundError):  # another process has just removed it
                about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
                used_at = (folder / "about.json").stat().st_mtime
                found.append(Environment(digest, folder, int(about["size_bytes"]), used_at, digest == data))
        return found

    @contextlib.contextmanager
    def _locked(self, digest: str, how: int) -> Iterator[None]:
        if how == fcntl.LOCK_SH:
            flags = os.O_RDONLY  # who uses it may be another account than who built it
        else:
            if not self.folder.is_dir():
                self.folder.mkdir(parents=True, exist_ok=True)
                self.folder.chmod(0o755)
            flags = os.O_RDWR | os.O_CREAT
        fd = os.open(self.folder / f".{_BUILT_FOR}-{digest}.lock", flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            if how != fcntl.LOCK_SH:
                os.fchmod(fd, 0o644)
            fcntl.flock(fd, how)
            yield
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def used(self, digest: str) -> Iterator[None]:
        """Keeps one from being removed for as long as the context lasts."""
        with self._locked(digest, fcntl.LOCK_SH):
            with contextlib.suppress(OSError):  # of another account, and read-only for this one
                os.utime(self._path(digest) / "about.json")
            yield

    def build(self, lock: str, *, uv: str = "", on_step: Callable[[str], None] = lambda _: None) -> Environment:
        """Makes the environment of a lock, if it is not there. Who asks for the same one meanwhile waits for it.

        Args:
            lock: Exact versions with digests.
            uv: The program; what is on PATH if it is not named.
            on_step: Told what is done.

        Raises:
            LockInvalid: If the lock is none.
            EnvironmentFailed: If it cannot be made: no wheel, another digest, too large, no index.
        """
        check_lock(lock)
        digest = digest_of(lock)
        with self._locked(digest, fcntl.LOCK_EX):
            if self.find_digest(digest) is None:
                self._sweep(digest)
                self._build(lock, digest, uv, on_step)
        self._evict(digest)
        return next(each for each in self.list() if each.digest == digest)

    def _sweep(self, digest: str) -> None:
        """Removes what builds of the same have left that were killed; nobody else builds it now."""
        for left in self.folder.glob(f"{_BUILDING}{digest}-*"):
            shutil.rmtree(left, ignore_errors=True)

    def _build(self, lock: str, digest: str, uv: str, on_step: Callable[[str], None]) -> None:
        program = uv or shutil.which("uv")
        if not program:
            raise EnvironmentFailed(
                "uv is not on PATH", remedy="Install uv; it reads the index that its settings name."
            )
        made = Path(tempfile.mkdtemp(prefix=f"{_BUILDING}{digest}-", dir=self.folder))
        try:
            (made / "lock.txt").write_text(lock, encoding="utf-8")
            on_step(f"downloading and unpacking {check_lock(lock)} packages")
            self._install(program, made)
            _refuse_guest(made / "site")
            about = {"size_bytes": size_of(made), "built_for": _BUILT_FOR}
            (made / "about.json").write_text(json.dumps(about), encoding="utf-8")
            _open_to_read(made)
            # INVARIANT: it appears whole or not at all
            made.rename(self._path(digest))
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def _install(self, program: str, made: Path) -> None:
        command = [program, "pip", "install", "--quiet", "--no-progress", "--require-hashes", "--no-build"]
        command += ["--link-mode", "copy", "--compile-bytecode", "--no-python-downloads", "--python", own_python()]
        command += ["--target", str(made / "site"), "--requirements", str(made / "lock.txt")]
        environment = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(  # noqa: S603 (uv, with a lock that was checked)
                command, cwd=made, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said, process_group=0
            )
            try:
                while process.poll() is None:
                    if size_of(made) > self._bytes_max:
                        raise self._too_large()
                    time.sleep(_LOOK_S)
            finally:
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            if process.returncode != 0:
                said.seek(0)
                why = said.read(_SAID_MAX).decode("utf-8", "replace").strip()
                raise EnvironmentFailed(
                    f"uv could not make the environment: {why}",
                    remedy="Only wheels with the digests of the lock are taken; look at the index that uv's settings name.",
                )
        if size_of(made) > self._bytes_max:
            raise self._too_large()

    def _too_large(self) -> EnvironmentFailed:
        return EnvironmentFailed(
            f"the environment has more than {self._bytes_max} bytes", remedy="Name fewer or smaller packages."
        )

    def _evict(self, made: str) -> None:
        """Removes what is too many: first what was not used for longest, and nothing that is in use, nor the runtime `data`."""
        built = sorted(self.list(), key=lambda each: each.used_at)
        too_many = len(built) - self._kept_max
        for each in built:
            if too_many <= 0:
                return
            if each.digest != made and not each.data and self.remove(each.digest):
                too_many -= 1

    def remove(self, digest: str) -> bool:
        """Removes one; says whether it did, for what is in use stays."""
        try:
            with self._locked(digest, fcntl.LOCK_EX | fcntl.LOCK_NB):
                gone = self.folder / f"{_BUILDING}{digest}-gone"
                with contextlib.suppress(FileNotFoundError):
                    self._path(digest).rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
        except BlockingIOError:
            return False
        return True


def _refuse_guest(site: Path) -> None:
    """Refuses packages with a module by the name of that by which jobs ask their run: it would be there, and never imported."""
    if any(entry.name.partition(".")[0] == _GUEST for entry in site.iterdir()):
        raise EnvironmentFailed(
            f"a package of the lock has a module `{_GUEST}`, which every job has of its own",
            remedy="Leave that package out of the lock.",
        )


def size_of(folder: Path) -> int:
    """Returns the bytes of all files beneath a folder, as far as they are there at this moment."""
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(at, name).lstat().st_size
    return total


def _open_to_read(folder: Path) -> None:
    """Lets every account read it, and nobody but its owner write: jobs have accounts of their own."""
    for at, _, names in os.walk(folder):
        Path(at).chmod(0o755)
        for name in names:
            path = Path(at, name)
            if not path.is_symlink():
                path.chmod(0o644)
