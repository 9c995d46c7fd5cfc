"""A next migration that there is not yet: the real ones in a folder, and one more."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent

from holdfast.database.version import MIGRATIONS, newest_known

_FORM = '''"""A migration of a test's own."""

from alembic import op

from holdfast.database import online

revision = "{revision}"
down_revision = "{before}"
{more}

def upgrade() -> None:
{body}
'''


@contextmanager
def folder_with(*bodies: str, more: str = "") -> Iterator[tuple[Path, str]]:
    """Yields a folder with all migrations and one more for each body, and the number of the last."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "versions"
        shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
        before = newest_known()
        for body in bodies:
            revision = f"{int(before) + 1:04}"
            text = _FORM.format(revision=revision, before=before, more=more, body=indent(body, "    "))
            (folder / f"{revision}_next.py").write_text(text, encoding="utf-8")
            before = revision
        yield folder, before
