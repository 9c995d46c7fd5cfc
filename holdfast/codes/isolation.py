"""Codes of the sandbox: where it refuses to run, and what it refuses to run."""

from __future__ import annotations

from typing import Final

from holdfast.codes.entry import Code, Place, result

CODES: Final = (
    Code(
        "isolation.layer_missing",
        (Place.COMMAND, Place.RESULT),
        "A layer of the sandbox does not hold on this host, so no code is run.",
        "The sentence names the layer and what to change on the host; `holdfast doctor` shows the same, and "
        "docs/explanation/sandbox.md says what each layer is for. Everything but `code.exec` works without it.",
        status=500,
    ),
    Code(
        "isolation.backend_missing",
        (Place.COMMAND, Place.RESULT),
        "What is to isolate code is not installed on this host, or is a version that is known to be unsound; no code is run in "
        "its tier.",
        "The sentence says what was found. Install what it names; `HOLDFAST_SANDBOX_ALLOW_OLD` allows an older version, which "
        "then stands in every receipt. `holdfast doctor` shows what is there.",
        status=503,
    ),
    Code(
        "isolation.tier_unavailable",
        (Place.DECISION, Place.RESULT),
        "Code is to run in a tier that no backend is set up for. It runs in no other, and nothing was spent.",
        "Set up a backend of that tier (`HOLDFAST_SANDBOX_BACKENDS`), or have tenant and role ask for less. "
        "docs/how-to/choose-a-tier.md says how.",
        status=503,
    ),
    Code(
        "isolation.lost",
        (Place.RESULT,),
        "The process that jobs run from has ended, and every job with it, or the executor has no descriptors left for another job; "
        "nothing that jobs did left their own folders.",
        "Run it again. If it happens again, look at the kernel's log for a lack of memory, and at the executor's limit of open files.",
        status=503,
    ),
    Code(
        "isolation.job_invalid",
        (Place.RESULT,),
        "A job's files, code or limits are not such as can be run.",
        "The sentence says which; name files within the job's folder, and keep to the limits.",
        status=422,
    ),
    Code(
        "isolation.runtime_missing",
        (Place.RESULT,),
        "Code asks for a language, a runtime or packages that the host which runs code does not have, or could not make ready "
        "in time; nothing was run.",
        "The sentence says which. `holdfast sandbox build` makes the runtime `data` with numpy, pandas and matplotlib, or an "
        "environment by a lock; `holdfast doctor` shows what is there.",
        status=503,
    ),
    Code(
        "environment.lock_invalid",
        (Place.COMMAND,),
        "A lock of packages is not a list of exact versions with the SHA-256 digests of their files.",
        "Write it with `uv pip compile --generate-hashes`; it names no index, no address, no folder and no option.",
        status=422,
    ),
    Code(
        "environment.failed",
        (Place.COMMAND,),
        "Packages for code in the sandbox could not be put together; nothing of them is left.",
        "The sentence has uv's own words. Only wheels with the digests of the lock are taken, from the index that uv's settings name.",
        status=502,
    ),
    Code(
        "session.lost",
        (Place.RESULT,),
        "The interpreter of a session is gone, and with it everything that its cells had made.",
        "Begin a new session. The sentence says what ended the last one, or why its cells cannot be run again.",
        status=410,
    ),
    result(
        "supervisor.absent",
        "Code in a job asked its run for something, and the job was given no way to ask.",
        "Submit it with `act`, or do without `holdfast_guest`.",
    ),
    result(
        "supervisor.lost",
        "The connection between a job and its run is gone; no later request of the job is answered.",
        "The job's result says why it was closed: a request that was none, or was too large, too slow or one too many.",
    ),
    result(
        "code.failed",
        "The code ended with an exception or a status that is not 0; what it used is paid.",
        "Nothing: the model reads the line of its code and what it printed, and can correct it.",
    ),
    result(
        "code.killed",
        "The code was ended because it used more than it may, or did what none may; what it used up to then is paid.",
        "Read its sentence. More time and memory are arguments of `code.exec`, within what the policy allows.",
    ),
    result(
        "code.calls_exhausted",
        "Code has asked its run for as much as a job may, or its run's history has no room for more; nothing was done.",
        "Do more with each call, or raise `HOLDFAST_CODE_REQUESTS_MAX` of the executors.",
    ),
    result(
        "code.call_unanswered",
        "Code asked its run for a call, and its own time was over, or its run had ended, before there was an answer.",
        "Look at the timeline: `code.called` and `hold.settled` say whether the call was made. Give the code more `timeout_ms`.",
    ),
    Code(
        "artefact.lost",
        (Place.API, Place.RESULT),
        "A file of a run is not in object storage any more, or is not what its digest says; nothing was run with it.",
        "Restore the objects from a backup; every process has to reach the same ones (`HOLDFAST_OBJECTS_FOLDER`, or the bucket).",
        status=500,
    ),
    Code(
        "artefact.storage_unavailable",
        (Place.API, Place.RESULT, Place.COMMAND),
        "Object storage, or the broker that signs for it, does not answer or broke off in the middle; nothing half was kept.",
        "Try again. See that S3 and the broker run, and that API and executors reach `HOLDFAST_OBJECTS_ENDPOINT` as well.",
        status=503,
    ),
    Code(
        "artefact.storage_refused",
        (Place.API, Place.RESULT, Place.COMMAND),
        "Object storage is not set, or answers and refuses: another key, no such bucket, no right to write, no room.",
        "The sentence has S3's own code. Check what the broker is told of S3; `holdfast doctor` tries it.",
        status=502,
    ),
)
