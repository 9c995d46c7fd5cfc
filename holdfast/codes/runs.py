"""Codes that say why a run ended as it did."""

from __future__ import annotations

from typing import Final

from holdfast.codes.entry import Code, Place

CODES: Final = (
    Code(
        "run.cancelled",
        (Place.RUN, Place.RESULT),
        "Somebody cancelled the run.",
        "Nothing: what had begun came to its end, and nothing more was started.",
    ),
    Code(
        "run.deadline",
        (Place.RUN,),
        "The run's deadline came.",
        "Give the agent a longer `deadline_s` in its limits, or the run less to do.",
    ),
    Code(
        "run.max_steps",
        (Place.RUN,),
        "The run took as many steps as its agent allows.",
        "Look whether it went in circles; else raise `max_steps` in the agent's limits.",
    ),
    Code(
        "run.steered",
        (Place.RESULT,),
        "A call that the model had proposed was not made, because somebody steered the run meanwhile.",
        "Nothing: the model reads it together with what was said.",
    ),
    Code(
        "run.ended",
        (Place.DECISION, Place.RUN),
        "The run has ended, and its workflow asked for one more action.",
        "Nothing: the action was refused. It happens after a reset of an ended run in Temporal.",
        verdict="deny",
    ),
    Code(
        "run.unknown",
        (Place.DECISION, Place.RUN, Place.API),
        "A workflow runs that no admitted run stands behind.",
        "Start runs through the API. If nobody started it by hand, find out who reaches your Temporal.",
        status=403,
        verdict="deny",
    ),
    Code(
        "run.history_digest",
        (Place.DECISION,),
        "The history of an ended run's workflow was kept, and this is its digest, so that a later change of it can be seen.",
        "Nothing: it is a record.",
        verdict="allow",
    ),
    Code(
        "transcript.broken",
        (Place.API, Place.RUN),
        "Entries of a transcript do not hash to the head they were fetched for.",
        "Somebody or something has altered rows of the transcript: restore them from a backup, and find out who.",
        status=500,
    ),
    Code(
        "outcome.unreadable",
        (Place.RESULT, Place.RUN),
        "What an executor stored could not be read, until there were no tries left.",
        "Look at the executor's log: it is of another version than the governor, or was altered. The worst case was charged.",
    ),
    Code(
        "outcome.unknown",
        (Place.RESULT, Place.RUN),
        "Nobody knows whether the action happened: the executor or the answer was lost after it had gone outside.",
        "Find out in the system it went to, then say so: `holdfast holds resolve HOLD`. Its hold stays meanwhile.",
    ),
    Code(
        "workflow.terminated",
        (Place.RUN,),
        "Somebody terminated the workflow in Temporal.",
        "Nothing: its holds are settled by the sweeper. `holdfast cancel` ends a run without losing its last words.",
    ),
    Code(
        "workflow.timed_out",
        (Place.RUN,),
        "The workflow timed out in Temporal.",
        "Look at whether governors were there; then start it again.",
    ),
    Code(
        "workflow.failed",
        (Place.RUN,),
        "The workflow failed in Temporal.",
        "Read its failure in Temporal's UI, and report it: a run should end with a code of its own.",
    ),
    Code(
        "workflow.ended",
        (Place.RUN,),
        "The workflow ended in Temporal, but the run had not.",
        "Read its history in Temporal's UI, and report it; the sweeper has ended the run.",
    ),
)
