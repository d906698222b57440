"""Every number that leaves the silos, with the guarantee it leaves under."""

from blindsum.platform.job.schema import Job

EXACT_METRICS = "exact consortium sums over held-out records, not differentially private"


def metrics_guarantee(job: Job) -> str:
    """Under which guarantee this job's figures of held-out records leave."""
    section = job.privacy
    if section.noise == "none" or section.metrics_epsilon is None or not job.private:
        return EXACT_METRICS
    return (
        f"sums over held-out records with noise: epsilon {section.metrics_epsilon:g} at delta "
        f"{section.delta:g} for each of those records, over the whole job"
    )


RELEASES = {
    "model after every round": "record-level (epsilon, delta) of privacy; none with noise: none",
    "held-out accuracy, loss, class counts": (
        f"{EXACT_METRICS}; with privacy.metrics_epsilon: that epsilon for held-out records"
    ),
    "means of held-out figures over the silos' shared tasks, and how many": EXACT_METRICS,
    "share of gradients within the clip norm, and the clip norm that follows": (
        "only with privacy.clip_quantile: a noised count within the same (epsilon, delta)"
    ),
    "shares of cut and of large update values": (
        "functions of the noised updates, within the same (epsilon, delta); none with noise: none"
    ),
    "molecules dropped as unreadable": "as held-out counts",
    "epsilon spent and left, by silo": "depends on the job file alone",
    "past spend on the same table, by silo": (
        "tells the driver that the table was used before; withheld where there is an owner's file"
    ),
    "head of the ledger, by silo": "a hash, and how many entries the ledger has",
    "refusal of a plan, by silo": (
        "with an owner's file only that the silo takes no part; else the reason, with the limit in it"
    ),
    "ciphertext sizes and seconds, by silo": "not protected: a network sees them",
}
"""Released figure: its guarantee. SECURITY.md shows this table."""
