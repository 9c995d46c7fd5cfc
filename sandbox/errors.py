"""What goes wrong with the sandbox itself. What goes wrong in a job is a result."""

from __future__ import annotations

import errno as numbers
from collections.abc import Iterable

from holdfast.errors import HoldfastError
from sandbox.layers import REMEDY, Layer


class LayerMissing(HoldfastError):
    """A layer of isolation does not hold on this host, so no job runs (LAW 6, LAW 7).

    Attributes:
        layer: Which.
        errno: What the kernel answered, 0 if an attack simply succeeded.
    """

    code = "isolation.layer_missing"

    def __init__(self, layer: Layer, errno: int, what: str) -> None:
        name = f" ({numbers.errorcode.get(errno, errno)})" if errno else ""
        super().__init__(f"the layer {layer} of the sandbox is missing: {what}{name}", remedy=REMEDY[layer])
        self.layer = layer
        self.errno = errno


class BackendMissing(HoldfastError):
    """The program that is to isolate jobs is not here, or not such as may be used; no other takes its place (LAW 7)."""

    code = "isolation.backend_missing"
    status = 503


class SandboxLost(HoldfastError):
    """The process that jobs fork from is gone, and with it all jobs; what they did stays within them."""

    code = "isolation.lost"
    status = 503


class SessionLost(HoldfastError):
    """The interpreter of a session is gone, and with it everything that its cells had made."""

    code = "session.lost"
    status = 410


class JobInvalid(HoldfastError):
    """A job's files, code or limits are not such as can be run."""

    code = "isolation.job_invalid"
    status = 422


class RuntimeMissing(HoldfastError):
    """A job asks for a language, a runtime or packages that this host does not have, or could not make ready in time."""

    code = "isolation.runtime_missing"
    status = 503


class LockInvalid(HoldfastError):
    """A lock is not a list of exact versions with digests."""

    code = "environment.lock_invalid"
    status = 422


class EnvironmentFailed(HoldfastError):
    """An environment for jobs could not be made; nothing of it is left."""

    code = "environment.failed"
    status = 502


def raise_first(done: Iterable[object]) -> None:
    """Raises the first error among what was gathered, after all of it came to its end."""
    for each in done:
        if isinstance(each, BaseException):
            raise each
