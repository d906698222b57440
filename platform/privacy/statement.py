"""A run's privacy statement: the guarantee, its mechanism, whom it trusts, what it does not cover.

The headings follow the layers of NIST SP 800-226, "Guidelines for Evaluating Differential Privacy
Guarantees" (2025): parameters and unit, algorithms with utility and bias, query and threat model,
implementation, data security, exposure at collection.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from blindsum.platform.job.average_section import described as released_average
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.accounting import ACCOUNTANT
from blindsum.platform.privacy.plan import (
    HELD_OUT_SENSITIVITY,
    UNIT,
    PrivacyPlan,
    describe,
    metrics_plan,
)
from blindsum.platform.privacy.releases import (
    EXACT_METRICS,
    RELEASES,
    SIMULATED,
    metrics_guarantee,
)

Statement = dict[str, dict[str, Any]]
HEADINGS = (
    "Privacy parameters",
    "Unit of privacy",
    "Algorithm and accounting",
    "Utility",
    "Bias",
    "Query model",
    "Threat model and trust",
    "Mechanism implementation",
    "Data security and access control",
    "Data collection exposure",
    "What is not covered",
)

NOT_COVERED = (
    "choosing settings by looking at private records: no ledger accounts for it",
    "a person with several records: protected less (group privacy)",
    "silos that deviate from the protocol",
    "sizes and timing of messages",
)


def privacy_statement(
    job: Job,
    plans: Mapping[str, PrivacyPlan | None],
    spent: Mapping[str, float] | None = None,
    utility: str = "",
    owned: Mapping[str, bool] | None = None,
    simulated: bool = False,
) -> Statement:
    """Return the statement, by heading.

    Args:
        plans: the plan of every silo, by name.
        spent: upper bound on the epsilon that each silo spent; None before a run.
        utility: the run's result on held-out records, in one line.
        owned: for each silo, whether an owner's file is in force.
        simulated: whether all silos were threads of one process.
    """
    section = job.privacy
    trust = _trust(job) | _consent(owned or {})
    if simulated:
        trust = {"simulation": SIMULATED} | trust
    elif job.simulated:
        trust = {"simulation": job.simulated} | trust
    if section.noise == "none" or not job.private:
        return _unprotected(job, trust)
    described = describe(section, job.model.kind)
    exact = section.metrics_epsilon is None and job.model.is_scored
    not_covered = ((f"held-out metrics: {EXACT_METRICS}",) if exact else ()) + NOT_COVERED
    parts: Statement = {
        "Privacy parameters": {
            name: _parameters(plan, None if spent is None else spent.get(name, 0.0))
            for name, plan in plans.items()
            if plan
        },
        "Unit of privacy": {"unit": UNIT, "adjacency": "add or remove one record of one silo"},
        "Algorithm and accounting": _accounting(job, described),
        "Utility": {"held-out": utility or "not measured before a run"},
        "Bias": {
            "clipping": "gradients above the clip norm are scaled down to it, which moves the "
            "model away from the records that differ most from the others",
            "small groups": "the noise does not depend on a group's size, so groups with few "
            "records lose more accuracy; accuracy by group is not measured here",
        },
        "Query model": {
            "released": "the model after every round, to all silos; to the driver, and saved: "
            + released_average(job.training.average),
            "kind": "one plan fixed before the run; no further queries",
        }
        | RELEASES,
        "Threat model and trust": trust,
        "Mechanism implementation": _implementation(job, described),
        "Data security and access control": {
            "records": "stay in each silo's process and files",
            "updates": "masked and encrypted (CKKS, 192-bit parameters)"
            if job.encryption.scheme == "ckks"
            else "NOT encrypted: the aggregator's process sees them",
        },
        "Data collection exposure": {
            "collection": "each silo collects its own records; Blindsum reads what the silo "
            "already holds"
        },
        "What is not covered": {str(i): text for i, text in enumerate(not_covered, 1)},
    }
    return parts


def _unprotected(job: Job, trust: dict[str, str]) -> Statement:
    no_noise = job.privacy.noise == "none"
    why = "it adds no noise" if no_noise else "its noise is drawn from a known seed"
    return {
        "Privacy parameters": {
            "epsilon": f"unbounded: this run has no differential privacy, because {why}"
        },
        "Threat model and trust": trust,
        "What is not covered": {"everything": "the model may reveal training records"},
    }


CONSENT = "owners' consent and lifetime limits"
_CURIOUS = "may be curious and may collude with silos"


def _parameters(plan: PrivacyPlan, spent: float | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "epsilon": plan.epsilon,
        "delta": plan.delta,
        "epsilon of the whole plan": round(plan.epsilon_planned, 6),
        "noise multiplier": round(plan.noise_multiplier, 6),
        "clip norm": plan.clip_norm,
        "sampling rate": plan.sampling_rate,
        **(
            {"standard deviation of the noise on the unclipped count": plan.count_noise}
            if plan.count_noise
            else {}
        ),
        "steps": f"{plan.rounds_within_budget} rounds of {plan.steps_per_round}",
    }
    return found if spent is None else {"epsilon spent": round(spent, 6)} | found


def _accounting(job: Job, described: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: described[name] for name in ("mechanism", "sampler", "accountant")},
        "composition": "all rounds and all attempts of the job; each is charged before it starts",
        "across jobs": "each job has its own budget; a lifetime limit across jobs applies only "
        "where the silo's machine has an owner's file and its owner has set a limit, and covers "
        "every release that has an epsilon (exact held-out counts have none)",
        "held-out records": metrics_guarantee(job),
        **_held_out(job),
    }


def _implementation(job: Job, described: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "noise": described["generator"],
        "floating point": "silos send integers, rounded after the noise is added"
        if job.privacy.noise == "shared"
        else "noise is drawn in double precision, and the noised update is rounded stochastically "
        "before it is sent; there is no proof against floating-point attacks",
        "code": f"blindsum {version('blindsum')}, {ACCOUNTANT}, opacus {version('opacus')}, "
        f"torch {version('torch')}",
    }


def _held_out(job: Job) -> dict[str, Any]:
    plan = metrics_plan(job)
    if plan is None:
        return {}
    return {
        "held-out mechanism": "Gaussian noise on counts, drawn in the same way as the updates' "
        f"noise; one record changes the counts by at most {HELD_OUT_SENSITIVITY:.4g} in L2",
        "held-out plan": f"{plan.rounds} evaluations at noise multiplier "
        f"{plan.noise_multiplier:.6g}: epsilon {plan.epsilon_planned:.6g}, {ACCOUNTANT}",
        "within the job": "a record is either trained on or held out, never both, so the larger "
        "of the two budgets covers it",
    }


def _trust(job: Job) -> dict[str, str]:
    section, n = job.privacy, len(job.silos)
    encrypted = job.encryption.scheme == "ckks"
    found = {
        "anyone who can query the model": "untrusted" if job.private else "TRUSTED",
        "other silos": "not trusted with a silo's records",
        "aggregator, driver, network": _CURIOUS if encrypted else "TRUSTED",
    }
    if section.noise == "shared":
        honest = job.least_silos - section.colluders
        found["other silos"] = (
            f"up to {section.colluders} of {n} may collude; at least {honest} must add their share "
            "of the noise and keep it secret"
        )
        found["aggregator, driver, network"] = (
            f"{_CURIOUS}, provided that the masks are secure, and that the driver sends every silo "
            "the agreed job and impersonates no silo"
        )
    if job.least_silos < n:
        found["lost silos"] = (
            f"the run continues with at least {job.least_silos} of {n}; every further attempt at a "
            "round is charged"
        )
    pinned = sum(silo.identity is not None for silo in job.silos)
    found["identities pinned in the job file"] = f"{pinned} of {n}"
    found["totals"] = "every silo verifies that each total is the sum of the silos' uploads" + (
        "; signed uploads are kept as evidence" if job.encryption.verify == "keep" else ""
    )
    return found


def _consent(owned: Mapping[str, bool]) -> dict[str, str]:
    if not owned:
        return {}
    open_ = [name for name, one in owned.items() if not one]
    return {
        CONSENT: (
            f"NOT ENFORCED at {', '.join(open_)}: no owner's file"
            if open_
            else "enforced at every silo"
        )
    }


def as_page(statement: Statement, title: str) -> str:
    """Return the statement as one HTML page that needs no other file."""
    parts = [f"<h1>Privacy statement</h1><p>{html.escape(title)}</p>"]
    for heading, content in statement.items():
        parts.append(f"<h2>{html.escape(heading)}</h2>")
        nested = {k: v for k, v in content.items() if isinstance(v, dict)}
        if nested:
            parts.append(_table(nested))
        else:
            rows = (
                f"<dt>{html.escape(k)}</dt><dd>{html.escape(str(v))}</dd>"
                for k, v in content.items()
            )
            parts.append(f"<dl>{''.join(rows)}</dl>")
    return _PAGE.format(title=html.escape(title), body="\n".join(parts))


def _table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(key for row in rows.values() for key in row))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(
        f"<tr><th>{html.escape(silo)}</th>"
        + "".join(f"<td>{html.escape(_shown(row.get(name, '')))}</td>" for name in names)
        + "</tr>"
        for silo, row in rows.items()
    )
    return f"<div class=wide><table><tr><th>silo</th>{head}</tr>{body}</table></div>"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Privacy statement: {title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1f24; }}
h1 {{ margin-bottom: 0; }} h2 {{ margin: 1.8rem 0 .4rem; font-size: 1.1rem; }}
dl {{ display: grid; grid-template-columns: 16rem 1fr; gap: .3rem 1rem; margin: 0; }}
dt {{ color: #57606a; }} dd {{ margin: 0; }}
.wide {{ overflow-x: auto; }} table {{ border-collapse: collapse; font-size: .9rem; }}
th, td {{ border-bottom: 1px solid #d0d7de; padding: .3rem .6rem; text-align: left; }}
@media (max-width: 40rem) {{ dl {{ grid-template-columns: 1fr; }} }}
</style></head><body>
{body}
</body></html>
"""
