"""A job on its way from whoever proposes it to the silos: its code, its pins, and what is refused.

The same checks run where a job is proposed and at the coordinator. What a silo's owner file refuses
is decided at the silo (`blindsum.actors.separate.inbox.against_policy`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from blindsum.actors.separate.messages import MOST_FILES, Proposal
from blindsum.actors.separate.registry import EnrolledSilo, ProposedJob
from blindsum.he.identity import fingerprint
from blindsum.platform.errors import JobError
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.own_code import own_functions
from blindsum.platform.job.schema import Job
from blindsum.platform.job.section import is_name
from blindsum.platform.job.yaml_reader import dump


def proposal_of(job_file: JobFile) -> tuple[Proposal, dict[str, bytes]]:
    """Return a job file as a proposal, with the code of its own functions.

    Raises:
        JobError: the job cannot be proposed; lists every fault at once.
    """
    job = job_file.job
    code = _code_of(job_file)
    if faults := faults_of(job, code):
        raise JobError("\n".join(faults))
    return Proposal(name=job.name, job=job.model_dump_json(), code=tuple(code)), code


def faults_of(job: Job, code: Mapping[str, bytes]) -> list[str]:
    """Return why a job cannot run in separate clusters."""
    faults = [
        f"silos.{silo.name}.data is {silo.data!r}, a path: write the name of a dataset in that "
        "silo's silo.yaml"
        for silo in job.silos
        if not is_name(silo.data)
    ]
    faults += [
        f"silos.{silo.name} has {key}: paths at a silo are in its own silo.yaml"
        for silo in job.silos
        for key in ("state", "private_tasks")
        if getattr(silo, key) is not None
    ]
    if job.tracking.uri is not None:
        faults.append("tracking.uri is the coordinator's to decide: leave it out")
    if job.runs != "runs":
        faults.append("runs is the coordinator's to decide: leave it out")
    if job.encryption.scheme == "none":
        faults.append("encryption.scheme none would show the coordinator every silo's update")
    if job.simulation:
        silos = ", ".join(job.roster)
        faults.append(
            f"simulation is for silos that one party simulates, and {silos} are real owners' "
            "silos, each in a cluster of its own: leave the section out"
        )
    if job.encryption.verify == "keep":
        faults.append("encryption.verify keep needs one cluster: write hash")
    if sum(map(len, code.values())) > MOST_FILES:
        faults.append(f"the code of the job's own functions has more than {MOST_FILES >> 20} MB")
    return faults


def checked_proposal(
    proposal: Proposal,
    code: Mapping[str, bytes],
    silos: Mapping[str, EnrolledSilo],
    allow_code: bool,
) -> Job:
    """Return a proposal's job with every silo's identity pinned.

    Args:
        silos: the enrolled silos.
        allow_code: whether jobs may bring code.

    Raises:
        JobError: the job cannot run here; lists every fault at once.
    """
    try:
        job = Job.model_validate_json(proposal.job)
    except ValidationError:
        raise JobError("the proposed job is not valid in the coordinator's version") from None
    faults = faults_of(job, code)
    if (code or own_functions(job)) and not allow_code:
        named = " and ".join(own_functions(job)) or "code"
        faults.append(f"this coordinator refuses {named} (coordinator.yaml: factory)")
    pinned = []
    for silo in job.silos:
        if silo.name not in silos:
            faults.append(f"silo {silo.name} is not enrolled here: blindsum invite {silo.name}")
            continue
        known = fingerprint(silos[silo.name].identity)
        if silo.identity not in (None, known):
            faults.append(f"silos.{silo.name}.identity is not the enrolled one, {known[:16]}…")
        pinned.append(silo.model_copy(update={"identity": known}))
    if faults:
        raise JobError("\n".join(faults))
    return job.model_copy(update={"silos": pinned})


def job_path(jobs: Path, one: ProposedJob) -> Path:
    """Write a proposal's job file and code into the coordinator's folder, and return its path.

    Raises:
        JobError: the folder cannot be written.
    """
    job = Job.model_validate_json(one.job)
    path = jobs / f"{one.name}-{one.digest[:8]}.yaml"
    try:
        jobs.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_text(dump(job.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
        for name, content in one.code.items():
            (jobs / name).parent.mkdir(parents=True, exist_ok=True)
            (jobs / name).write_bytes(content)
    except OSError as error:
        raise JobError(f"{jobs} cannot be written: {error.strerror}") from None
    return path


def _code_of(job_file: JobFile) -> dict[str, bytes]:
    """Return the files of a job's own functions: of each its module, or its whole package."""
    code = dict[str, bytes]()
    for setting, named in own_functions(job_file.job).items():
        module = named.partition(":")[0]
        top = job_file.folder / module.split(".")[0]
        files = sorted(top.rglob("*.py")) if top.is_dir() else [top.with_suffix(".py")]
        if not files or not all(file.is_file() for file in files):
            raise JobError(
                f"{setting}: there is no module {module} beside {job_file.path.name}",
                "In separate clusters its code travels with the job; put it beside the job file.",
            )
        code |= {str(file.relative_to(job_file.folder)): file.read_bytes() for file in files}
    return code
