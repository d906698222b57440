"""`blindsum check`: report what a run would refuse, spend and send, without training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from shlex import quote

from rich.text import Text

from blindsum.actors.messages import SiloSpec
from blindsum.actors.silo_messages import Inspection
from blindsum.actors.summing import first_range, parameters_of
from blindsum.he.parameters import RING_DEGREE, Parameters
from blindsum.infra.ray_session import ray_session
from blindsum.pipelines.run.folders import runs_folder, silo_folder
from blindsum.pipelines.run.job_picture import JobPicture, Messages
from blindsum.pipelines.run.output import plan_figures, warnings
from blindsum.pipelines.run.traffic import Traffic, traffic
from blindsum.pipelines.show.console import console, emit, show_result, show_warnings
from blindsum.pipelines.show.progress import Shown, progress
from blindsum.pipelines.show.table import Sheet
from blindsum.platform.data.at_silo import read_at_silo
from blindsum.platform.data.concerns import shared_identifiers, shared_records
from blindsum.platform.data.identifiers import Identifiers, identified_by
from blindsum.platform.data.member import identifiers_of
from blindsum.platform.data.record_sample import SampledDigests
from blindsum.platform.errors import BlindsumError, in_one
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.own_code import WHAT_FOR, own_functions
from blindsum.platform.job.paths import silo_places
from blindsum.platform.job.private_tasks import load_private_tasks
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.accounting import ACCOUNTANT
from blindsum.platform.privacy.overlapping import protection_in_two
from blindsum.platform.privacy.plan import UNIT, describe, plan
from blindsum.platform.privacy.statement import CONSENT, privacy_statement


@dataclass(frozen=True)
class Checked:
    """A job that would run. `concerns` are what is odd about the data of all silos together."""

    inspections: Mapping[str, Inspection]
    parameters: Parameters
    rounds: int
    concerns: tuple[str, ...]
    traffic: Traffic

    @property
    def first(self) -> Inspection:
        """The first silo's inspection: the model is the same in all."""
        return next(iter(self.inspections.values()))


def check(job_file: JobFile, address: str | None, quiet: bool = True) -> Checked:
    """Validate the job, the silos' data and the privacy plan.

    Args:
        address: address of the Ray cluster with the silos' data; None checks on this machine.
        quiet: whether to show no progress.

    Raises:
        BlindsumError: the first fault of every silo, in one message.
    """
    job = job_file.job
    parameters = parameters_of(job)
    runs_folder(job_file)
    with progress("starting", quiet) as shown:
        inspections, concerns = (
            (_on_cluster(job_file, address, shown), []) if address else _here(job_file, shown)
        )
    first = next(iter(inspections.values()))
    plans = [i.plan for i in inspections.values() if i.plan]
    rounds = min([job.training.rounds, *(p.rounds_within_budget for p in plans)])
    bound = first_range(job, first.plan or plan(job, first.silo))
    sent = traffic(job, parameters, first.parameters, bound, rounds)
    return Checked(inspections, parameters, rounds, tuple(concerns), sent)


def _here(job_file: JobFile, shown: Shown) -> tuple[dict[str, Inspection], list[str]]:
    """Inspect every silo in this process. Whoever runs it may read its tables, so that it also
    tells what is odd about their data, on a machine with an owner's file too."""
    from blindsum.actors.silo import Silo

    inspections, records, faults = {}, {}, []
    shown.stage("planning, and reading the silos' tables", len(job_file.job.roster))
    for name in job_file.job.roster:
        try:
            spec = SiloSpec(job=job_file.job, run="check", name=name, folder=str(job_file.folder))
            silo = Silo(spec, alone=True)
            found = silo.inspect()
            data = silo.data
            inspections[name] = replace(found, warnings=data.concerns)
            records[name] = data.records
        except BlindsumError as error:
            faults.append(error.located(silo=name))
        _show_told(job_file, name)
        shown.step()
    if faults:
        raise in_one(faults, of_all=not inspections)
    return inspections, _in_common(job_file, records)


def _in_common(job_file: JobFile, records: Mapping[str, SampledDigests]) -> list[str]:
    """Return a sentence for each two silos that have records, molecules or fold keys in common."""
    job, by, known = job_file.job, identified_by(job_file.job.data), dict[str, Identifiers]()
    if by != "record":
        for name in job.roster:
            places = silo_places(job.silo(name), str(job_file.folder))
            own = load_private_tasks(job.silo(name), job, places.private_tasks)
            known[name] = identifiers_of(own, job, places, "check", by)

    def sentences(protection: str) -> dict[str, str]:
        return shared_records(records, protection) | shared_identifiers(known, by, protection)

    # The accountant takes a second, and is seldom needed.
    return [*sentences(protection_in_two(job)).values()] if sentences("") else []


def _show_told(job_file: JobFile, name: str) -> None:
    """Print what the silo's owner alone is told about its table, if this user may read it."""
    try:
        places = silo_places(job_file.job.silo(name), str(job_file.folder))
    except BlindsumError:
        return
    for text in read_at_silo(places.of_run("check")):
        console.print(Text(f"told to silo '{name}' alone: {text}"), soft_wrap=True)


def _on_cluster(job_file: JobFile, address: str | None, shown: Shown) -> dict[str, Inspection]:
    def reading(percents: Mapping[str, int]) -> None:
        shown.share(sum(percents.values()) / (100 * len(percents)) if percents else 0.0)

    shown.stage("joining the cluster")
    with ray_session(address):
        from blindsum.actors.federation import Federation

        federation = Federation(job_file.job, "check", silo_folder(job_file))
        try:
            shown.stage("silos read their data")
            return federation.inspect(reading)
        finally:
            federation.close()


def show_check(job_file: JobFile, checked: Checked, as_json: bool) -> None:
    """Print what the run would spend and send."""
    job = job_file.job
    found = [*warnings(job, checked.inspections), *checked.concerns]
    stated = privacy_statement(
        job,
        {n: i.plan for n, i in checked.inspections.items()},
        owned={n: i.owned for n, i in checked.inspections.items()},
    )
    if as_json:
        emit("check", job=job.name, **_figures(job, checked), warnings=found, statement=stated)
        return
    show_result(_noise(checked))
    if job.privacy.noise != "none" and job.private:
        show_result(f"per record ({UNIT}); accountant: {ACCOUNTANT}")
        show_result(f"mechanism: {describe(job.privacy, job.model.kind)['mechanism']}")
    for heading in ("Threat model and trust", "What is not covered"):
        show_result(Text(f"\n{heading.lower()}", style="bold"))
        for name, text in stated[heading].items():
            if name == CONSENT:  # the picture shows it for each silo
                continue
            show_result(f"  {text}" if name.isdigit() else f"  {name}: {text}")
    for setting, named in own_functions(job).items():
        show_result(f"\ncode of the job's own, in every silo: {named} {WHAT_FOR[setting]}")
    if checked.first.clipping:
        show_result(f"\nclipping: {checked.first.clipping}")
    if shared := [f"{one.name} {one.workers}" for one in job.silos if one.workers > 1]:
        show_result(f"\nworkers that share a silo's table, in its own Ray: {', '.join(shared)}")
    if shared := [f"{one.name} {one.resources.gpus:g}" for one in job.silos if one.resources.gpus]:
        show_result(f"\nGPUs that a silo's own Ray must have: {', '.join(shared)}")
    if checked.parameters.scheme == "ckks":
        show_result(f"\n{_encryption(job, checked)}")
    show_result("", _picture(job_file, checked))
    show_warnings(found)
    command = f"blindsum run {quote(str(job_file.path))}"
    verdict = "\nThis job would run.", "bold"
    show_result(
        Text.assemble(verdict, f" To train it, with the same --set options: {command}"),
        soft_wrap=True,
    )


def _figures(job: Job, checked: Checked) -> dict[str, object]:
    """Return what --json prints of the figures."""
    sent = checked.traffic
    found: dict[str, object] = {"simulated": job.simulated} if job.simulated else {}
    return found | {
        "rounds": checked.rounds,
        "parameters": checked.first.parameters,
        "frozen_parameters": checked.first.frozen,
        "up_bytes_per_round": sent.up_a_round,
        "down_bytes_per_round": sent.down_a_round,
        "up_bytes": sent.up,
        "down_bytes": sent.down,
        "bytes_at_most": sent.at_most,
        "encryption": asdict(checked.parameters),
        "clipping": checked.first.clipping,
        "own_functions": own_functions(job),
        "silos": {
            n: {
                "plan": plan_figures(i.plan),
                "lifetime": _lifetime(i),
                "ledger": i.ledger,
                "workers": job.silo(n).workers,
                "gpus": job.silo(n).resources.gpus,
            }
            for n, i in checked.inspections.items()
        },
    }


def _noise(checked: Checked) -> Sheet:
    """Return each silo's noise, and what its table has spent before, as a table."""
    title = "noise, and what earlier jobs spent"
    table = Sheet("silo", "noise multiplier", "spent by past jobs", title=title)
    for name, i in checked.inspections.items():
        past = "nothing" if i.lifetime else "kept by the silo"
        if i.lifetime and i.lifetime.jobs:
            spent = _lifetime(i)["epsilon"]
            past = f"{spent}, delta {i.lifetime.delta:g}, in {i.lifetime.jobs}"
        table.add(name, f"{i.plan.noise_multiplier:.4g}" if i.plan else "no noise", past)
    return table


def _encryption(job: Job, checked: Checked) -> str:
    """Return how values are encrypted, and how large they can be."""
    used = checked.parameters
    return (
        f"encryption: CKKS with pairwise masks, ring degree {RING_DEGREE}, {used.bits} bits a "
        f"value, {used.digits} values a real; each integer is wrong with probability at most "
        f"2^-80; {_limits(job, checked.first)}"
    )


def _picture(job_file: JobFile, checked: Checked) -> JobPicture:
    """Return the picture of the job, with what the silos said of themselves: only their plans, and
    whether an owner's file is in force there."""
    return JobPicture(
        job=job_file.job,
        text=job_file.text,
        parameters=checked.first.parameters,
        frozen=checked.first.frozen,
        plans={name: i.plan for name, i in checked.inspections.items() if i.plan},
        rounds=checked.rounds,
        messages=Messages.of(job_file.job, checked.traffic),
        owned={name: i.owned for name, i in checked.inspections.items()},
    )


def _limits(job: Job, inspection: Inspection) -> str:
    """Return in words how large a value can be that a silo sends."""
    bound = first_range(job, inspection.plan or plan(job, inspection.silo))
    if job.privacy.noise == "shared":  # the sum is clamped before its noise, and the range is both
        return f"values sent lie within ±{bound:.4g}"
    adapts = ", and that range adapts" if job.adapts_range else ""
    return f"values beyond ±{bound:.4g} are clamped{adapts}"


def _lifetime(inspection: Inspection) -> dict[str, object]:
    """Return what past jobs spent on the same table: "unbounded" after a job without privacy."""
    past = inspection.lifetime
    if past is None:
        return {"kept by": "the silo"}
    epsilon = round(past.epsilon, 6) if math.isfinite(past.epsilon) else "unbounded"
    return {"jobs": past.jobs, "epsilon": epsilon, "delta": past.delta}
