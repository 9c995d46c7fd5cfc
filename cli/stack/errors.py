"""What may keep the embedded stack from starting: each says what to do."""

from __future__ import annotations

from holdfast.errors import HoldfastError


class StackError(HoldfastError):
    """Base of the embedded stack's errors."""

    code = "stack.error"


class DataFolderInvalid(StackError):
    """The data folder cannot be used, or what lies in it does not fit together."""

    code = "stack.data_folder_invalid"


class DiskFull(StackError):
    """There is too little space where the data folder lies."""

    code = "stack.disk_full"


class AlreadyRunning(StackError):
    """Another supervisor holds the lock of the same data folder."""

    code = "stack.already_running"


class NotRunning(StackError):
    """No supervisor holds the lock of this data folder."""

    code = "stack.not_running"


class PortTaken(StackError):
    """Something else listens on a port that the stack needs."""

    code = "stack.port_taken"


class AccountRefused(StackError):
    """PostgreSQL cannot be run under any account here."""

    code = "stack.account_refused"


class PartMissing(StackError):
    """A program that the stack consists of is not installed."""

    code = "stack.part_missing"


class ChildFailed(StackError):
    """A child ended, or was not ready in time."""

    code = "stack.child_failed"
