"""What no statement of a tool may name: functions whose effect a read-only transaction neither stops nor takes back."""

from __future__ import annotations

import re
from typing import Final

_REFUSED: Final = re.compile(
    r"""\b(
        set_config                                        # would tell row-level security of another tenant (LAW 5)
      | (query|cursor|table|schema|database)_to_xml\w*    # run texts as statements, and so arguments
      | ts_stat | ts_rewrite | crosstab\w* | connectby
      | dblink\w*                                         # is another connection, which reads and writes
      | pg_terminate_backend | pg_cancel_backend
      | pg_(try_)?advisory_\w+ | pg_logical_emit_message
      | lo_\w+ | lowrite | loread                         # before PostgreSQL 16 these write in a read-only transaction
      | pg_read_\w*file | pg_ls_\w+ | pg_stat_file | pg_reload_conf | pg_rotate_logfile
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)
_ESCAPED_NAME: Final = re.compile(r"\bu&\s*\"", re.IGNORECASE)


def refused_word(statement: str) -> str:
    """Returns what a statement may not say, or an empty text.

    It looks at the whole text, comments and literals too: no disagreement with the server about where those end can hide a name.
    """
    if found := _REFUSED.search(statement):
        return found[0]
    return 'U&"' if _ESCAPED_NAME.search(statement) else ""
