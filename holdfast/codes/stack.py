"""Codes of processes that do not start, of the embedded stack, and of the Python client."""

from __future__ import annotations

from typing import Final

from holdfast.codes.entry import Code, Place


def _stack(code: str, cause: str, remedy: str) -> Code:
    return Code(code, (Place.COMMAND,), cause, remedy)


CODES: Final = (
    Code(
        "configuration.invalid",
        (Place.COMMAND, Place.RESULT, Place.RUN),
        "A setting is missing or wrong; the process refuses to start, or the action to be executed.",
        "The sentence names the setting; docs/reference/settings.md lists them all.",
        status=500,
    ),
    _stack(
        "stack.error", "The embedded stack could not do what was asked.", "Read the sentence, and `holdfast status`."
    ),
    _stack(
        "stack.data_folder_invalid",
        "The data folder cannot be used, or what lies in it does not fit together.",
        "Name another with `--data-dir`, or restore the files that the sentence names.",
    ),
    _stack(
        "stack.disk_full",
        "There is too little space where the data folder lies; nothing that was granted or done is lost.",
        "Make space, or name a folder elsewhere with `--data-dir`; then start it again.",
    ),
    _stack(
        "stack.already_running",
        "Another supervisor holds the lock of the same data folder.",
        "Use that one (`holdfast status`), stop it (`holdfast down`), or name another folder with `--data-dir`.",
    ),
    _stack(
        "stack.not_running",
        "Nothing runs on this data folder, or the server does not answer.",
        "Start it with `holdfast up`, or name another with `--url` or `--data-dir`.",
    ),
    _stack(
        "project.invalid",
        "Files of a project folder are wrong; nothing was put.",
        "Mend what is named, by file and field, and apply again.",
    ),
    _stack(
        "stack.port_taken",
        "Something else listens on a port that the stack needs.",
        "Stop that program, or let the stack take other ports: `holdfast up --help`.",
    ),
    _stack(
        "stack.account_refused",
        "PostgreSQL cannot be run under any account here.",
        "Run it as an ordinary user, or give root an account `nobody` that may enter the data folder.",
    ),
    _stack(
        "stack.part_missing",
        "A program that the stack consists of is not installed.",
        "Do one of what the sentence says; docs/how-to/start-the-stack.md tells where each part comes from.",
    ),
    _stack(
        "stack.child_failed",
        "A process of the stack ended, or was not ready in time.",
        "Read its log in the data folder, `logs/`; its last lines stand in the sentence.",
    ),
    _stack(
        "schema.unfit",
        "The database's schema is older than the program needs, newer than it can work with, or half restored.",
        "Migrate it with the program's own version, or start a newer version; docs/how-to/upgrade.md tells in which order.",
    ),
    _stack(
        "schema.blocked",
        "A migration could not get its locks in time; nothing of it was done, and the old version works as before.",
        "End what the sentence says holds it up, or run it again at a quieter time, or with more `--patience-s`.",
    ),
    _stack(
        "log.broken",
        "What is stored of a tenant's transparency log contradicts itself, or the checkpoint that was last signed; nothing is signed.",
        "Compare with a checkpoint of a witness or an auditor, and restore the database from a backup; "
        "docs/explanation/transparency-log.md tells what that means for those who follow the log.",
    ),
    _stack(
        "log.key_unknown",
        "The keys that would sign a log are not those that it is known by; nothing is signed.",
        "Put the log's key back. If it is lost, or others know it: `holdfast log rotate-key --retire`, as "
        "docs/explanation/transparency-log.md tells.",
    ),
    _stack(
        "log.forked",
        "A witness was shown a checkpoint that does not follow from the last one that it has cosigned.",
        "Keep both checkpoints, they are the evidence; ask the server's operator, and look whether it was restored from a backup.",
    ),
    _stack(
        "log.refused",
        "PostgreSQL refused what would have forked, shortened or renumbered a log.",
        "Look at the sentence: somebody else writes to the log's tables, or they were tampered with.",
    ),
    _stack(
        "log.record_altered",
        "A record's hash is not the one of its parts, so it was altered before it had a number; it is left out of the log.",
        "Compare the record with its permit, a backup, or what was exported of it; only a write past Holdfast does this.",
    ),
    _stack(
        "backup.failed",
        "A backup could not be taken; nothing of it is left.",
        "Do what the sentence says, and take it again.",
    ),
    _stack(
        "backup.invalid",
        "A backup is damaged, incomplete, of a newer version, or no backup at all; nothing of it was restored.",
        "Take another backup: `holdfast backup verify` says which can be trusted. One of a newer version needs that version.",
    ),
    _stack(
        "backup.restore_refused",
        "A backup cannot be restored there, or not with these keys; what is there is untouched.",
        "Name a new folder or database, or the folder with the keys; docs/how-to/back-up-and-restore.md tells how.",
    ),
    _stack(
        "backup.restore_failed",
        "Restoring failed in the middle; what it had made was removed.",
        "Mend what the sentence names, and restore again.",
    ),
    Code(
        "client.no_answer",
        (Place.CLIENT,),
        "Holdfast could not be reached, or its answer was lost; `sent` says whether the request may have arrived.",
        "Check the address, and whether the server is up; repeat a request that was sent under the same Idempotency-Key.",
    ),
    Code(
        "client.answer_unreadable",
        (Place.CLIENT,),
        "Something answered, but not as Holdfast does.",
        "Check the address: it may be another program's, or a proxy may stand between.",
    ),
)
