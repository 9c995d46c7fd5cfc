"""What may keep a backup from being taken, read or restored: each says what to do."""

from __future__ import annotations

from holdfast.errors import HoldfastError


class BackupFailed(HoldfastError):
    """A backup could not be taken; nothing of it is left."""

    code = "backup.failed"


class BackupInvalid(HoldfastError):
    """A backup is damaged, incomplete, of a newer version, or no backup at all; nothing of it was restored."""

    code = "backup.invalid"


class RestoreRefused(HoldfastError):
    """A backup cannot be restored there; what is there is untouched."""

    code = "backup.restore_refused"


class RestoreFailed(HoldfastError):
    """Restoring failed in the middle; what it had made is removed, or named."""

    code = "backup.restore_failed"
