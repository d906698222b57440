"""Every number that the silos release, with its privacy guarantee."""

from blindsum.platform.job.schema import Job

EXACT_METRICS = "exact sums over all silos' held-out records, not differentially private"

NOT_SCORED = "none: statistics count all records alike, those of the held-out fold too"

SIMULATED = (
    "all silos, their keys and their records were in one process: nobody was protected from "
    "anyone. Figures and epsilon are those of a run on the same records"
)
"""What everything that a simulation leaves says of it."""


def metrics_guarantee(job: Job) -> str:
    """Return the guarantee under which this job releases its held-out figures."""
    section = job.privacy
    if not job.model.is_scored:
        return NOT_SCORED
    if section.noise == "none" or section.metrics_epsilon is None or not job.private:
        return EXACT_METRICS
    return (
        f"noised sums over held-out records: epsilon {section.metrics_epsilon:g} at delta "
        f"{section.delta:g} for each of those records, over the whole job"
    )


RELEASES = {
    "model after every round": (
        "record-level, with the job's (epsilon, delta); no guarantee under privacy.noise: none"
    ),
    "coefficients of a regression, their standard errors and p-values": (
        "computed from the model, under the same guarantee; under privacy.noise: none with the "
        "exact number of training records"
    ),
    "held-out accuracy, loss, class counts": (
        f"{EXACT_METRICS}; with privacy.metrics_epsilon: noised, with that epsilon for each "
        "held-out record"
    ),
    "mean of each held-out metric over all silos' shared tasks, and the number of tasks averaged": (
        EXACT_METRICS
    ),
    "variance of the means of AUROC, AUPRC, calibration error, conformal efficiency, enrichment, "
    "BEDROC and R2; "
    "number of positive and of negative labels, of those that conformal sets have, and of tasks "
    "for which the model diverged, over all silos' shared tasks": EXACT_METRICS,
    "the same of AUROC, conformal efficiency and R2 for each group of shared tasks": EXACT_METRICS,
    "share of gradients within the clip norm, and the next clip norm": (
        "released only with privacy.clip_quantile: a noised count, under the same (epsilon, delta)"
    ),
    "shares of cut and of large update values": (
        "computed from the noised updates, under the same (epsilon, delta); no guarantee under "
        "privacy.noise: none"
    ),
    "records and single labels that were dropped": "the same guarantee as held-out counts",
    "share of its table that a silo has read, by silo": (
        "in steps of 5 %, so that it tells no count; its pace is visible, as all seconds are"
    ),
    "epsilon spent and left, by silo": "depends on the job file alone",
    "past spend on the same table, by silo": (
        "reveals to the driver that the table was used before; withheld where the silo has an "
        "owner's file"
    ),
    "head of the ledger, by silo": "a hash and the number of ledger entries",
    "refusal of a plan, by silo": (
        "with an owner's file: only that the silo takes no part; without one: the reason, "
        "including the limit"
    ),
    "ciphertext sizes and seconds, by silo": "not protected: visible on the network",
}
"""Each released figure and its guarantee. SECURITY.md shows this table."""
