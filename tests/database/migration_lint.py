"""What a migration may do to a live database, asked of the SQL that it would run.

Each statement has to be of a kind that is known here. What is unknown is refused, so that whoever writes a new kind thinks about its
locks once.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Final

from alembic import command

from holdfast.database.migrate import config_of, scripts_of

_HARMLESS: Final = (
    r"CREATE TABLE",
    r"CREATE (OR REPLACE )?FUNCTION",
    r"CREATE (OR REPLACE )?TRIGGER",
    r"CREATE POLICY",
    r"CREATE (OR REPLACE )?PROCEDURE",
    r"CALL fill_\w+\(\)$",  # which commits every thousand rows
    r"ALTER POLICY",
    r"ALTER FUNCTION",
    r"GRANT ",
    r"REVOKE ",
    r"COMMENT ON",
    r"CREATE (UNIQUE )?INDEX CONCURRENTLY",
    r"DROP INDEX CONCURRENTLY",
    r"REINDEX INDEX CONCURRENTLY",
    r"INSERT INTO alembic_version",
    r"UPDATE alembic_version",
    r"(BEGIN|COMMIT)$",
    r"SELECT set_config\('holdfast",
)
_CONTRACTS: Final = (r"DROP (TABLE|FUNCTION|POLICY|TRIGGER)",)
"""What programs of the version before may still use: only with a word on which programs are the oldest that do not."""

_HARMLESS_CHANGES: Final = (
    r"(ENABLE|FORCE) ROW LEVEL SECURITY",
    r"ADD CONSTRAINT \w+ .* NOT VALID",
    r"ADD CONSTRAINT \w+ (PRIMARY KEY|UNIQUE) USING INDEX \w+",
    r"VALIDATE CONSTRAINT \w+",
    r"ALTER (COLUMN )?\w+ SET DEFAULT .+",
    r"ALTER (COLUMN )?\w+ DROP (DEFAULT|NOT NULL)",
    r"ALTER (COLUMN )?\w+ SET STATISTICS -?\d+",
    r"SET \(.*\)",
    r"OWNER TO \w+",
)
_CONTRACTING_CHANGES: Final = (r"DROP (COLUMN|CONSTRAINT) .*", r"RENAME .*")
_CONSTANT: Final = r"(?:'(?:[^']|'')*'(?:::[a-z ]+(?:\[\])?)?|-?\d+|true|false|NULL|now\(\)|CURRENT_TIMESTAMP)"
_NEW_COLUMN: Final = re.compile(
    rf"ADD (?:COLUMN )?(?:IF NOT EXISTS )?\w+ (?!\w*serial)[a-z]+(?: precision| varying)?(?:\(\d+(?:, ?\d+)?\))?(?:\[\])?"
    rf"(?: NOT NULL)?(?: DEFAULT {_CONSTANT})?(?: NOT NULL)?",
    re.IGNORECASE,
)


def _plain(statement: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"--[^\n]*", "", statement)).strip()


def _statements(sql: str) -> Iterator[str]:
    """Splits at semicolons outside of quotes."""
    part = r"""(\$(\w*)\$.*?\$\2\$|'(?:[^']|'')*'|--[^\n]*|;)"""
    current = ""
    at = 0
    for token in re.finditer(part, sql, re.DOTALL):
        current += sql[at : token.start()]
        if token[0] == ";":
            yield _plain(current)
            current = ""
        else:
            current += token[0]
        at = token.end()
    yield _plain(current + sql[at:])


def sql_of(folder: Path, revision: str, before: str) -> str:
    """Returns what a migration would run."""
    printed = io.StringIO()
    config = config_of(folder)
    config.output_buffer = printed
    with redirect_stdout(io.StringIO()):
        command.upgrade(config, f"{before}:{revision}", sql=True)
    return printed.getvalue()


def _split(actions: str) -> list[str]:
    """Splits the actions of an ALTER TABLE at the commas between them."""
    depth, parts = 0, [""]
    for token in re.findall(r"'(?:[^']|'')*'|.", actions):
        depth += {"(": 1, ")": -1}.get(token, 0)
        if token == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    return [part.strip() for part in parts]


def _fault_of_change(action: str, *, contracts: bool) -> str:
    if any(re.fullmatch(form, action, re.IGNORECASE) for form in _HARMLESS_CHANGES):
        return ""
    if any(re.fullmatch(form, action, re.IGNORECASE) for form in _CONTRACTING_CHANGES):
        return (
            "" if contracts else f"programs of the version before may use it, and `oldest_program` is not set: {action}"
        )
    if not re.match(r"ADD (?!CONSTRAINT|PRIMARY|UNIQUE|CHECK|FOREIGN|EXCLUDE)", action, re.IGNORECASE):
        return f"it rewrites or scans the table under a lock, or nobody knows: {action}"
    if _NEW_COLUMN.fullmatch(action) is None:
        return f"a column that is not plain, with a constant default at most: {action}"
    if re.search("NOT NULL", action, re.IGNORECASE) and not re.search("DEFAULT", action, re.IGNORECASE):
        return f"rows that are there have no value for it: {action}"
    return ""


def faults(sql: str, *, contracts: bool) -> list[str]:
    """Returns what is wrong with a migration's SQL.

    Args:
        sql: All of it.
        contracts: Whether it says which programs are the oldest that still work after it.
    """
    found: list[str] = []
    made: set[str] = set()
    added: set[str] = set()  # constraints of this transaction that rows have not been checked against
    for statement in filter(None, _statements(sql)):
        if re.fullmatch("COMMIT", statement):
            added.clear()
        if table := re.match(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)", statement, re.IGNORECASE):
            made.add(table[1])
        target = re.match(r"ALTER TABLE (?:IF EXISTS )?(?:ONLY )?(\w+) (.*)", statement, re.IGNORECASE)
        index = re.match(r"CREATE (?:UNIQUE )?INDEX (?:IF NOT EXISTS )?\w+ ON (\w+)", statement, re.IGNORECASE)
        if (target and target[1] in made) or (index and index[1] in made):
            continue  # nobody uses it yet
        if target:
            for action in _split(target[2]):
                found += filter(None, [_fault_of_change(action, contracts=contracts)])
                if name := re.match(r"ADD CONSTRAINT (\w+)", action, re.IGNORECASE):
                    added.add(name[1])
                if (name := re.match(r"VALIDATE CONSTRAINT (\w+)", action, re.IGNORECASE)) and name[1] in added:
                    found.append(f"in one transaction, it scans under the lock that adding it took: {statement}")
        elif any(re.match(form, statement, re.IGNORECASE) for form in _CONTRACTS):
            if not contracts:
                found.append(f"programs of the version before may use it, and `oldest_program` is not set: {statement}")
        elif not any(re.match(form, statement, re.IGNORECASE) for form in _HARMLESS):
            found.append(f"nobody has thought about the locks of this: {statement}")
    return found


def faults_of_folder(folder: Path) -> list[str]:
    """Returns what is wrong with all migrations of a folder but the first and those for which all processes are stopped."""
    found = []
    before = ""
    for script in scripts_of(folder):
        contracts = hasattr(script.module, "oldest_program")
        # where every process has to be stopped, there is none that it could hold up; test_migration_files.py lists these
        stops = contracts and script.module.oldest_program == script.revision
        if before and not stops:
            found += [
                f"{script.revision}: {fault}"
                for fault in faults(sql_of(folder, script.revision, before), contracts=contracts)
            ]
        before = script.revision
    return found
