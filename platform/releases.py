"""Every number that leaves the silos, with the guarantee it leaves under."""

METRICS_GUARANTEE = "exact consortium sums over held-out records, not differentially private"

RELEASES = {
    "model after every round": "record-level (epsilon, delta) of privacy; none with noise: none",
    "held-out accuracy, loss, class counts": METRICS_GUARANTEE,
    "shares of cut and of large update values": (
        "functions of the noised updates, within the same (epsilon, delta); none with noise: none"
    ),
    "molecules dropped as unreadable": "exact consortium sum, not differentially private",
    "epsilon spent and left, by silo": "depends on the job file alone",
    "past spend on the same table, by silo": "tells the driver that the table was used before",
    "head of the ledger, by silo": "a hash, and how many entries the ledger has",
    "refusal of a plan, by silo": "tells the driver the silo's lifetime limit and what is left of it",
    "ciphertext sizes and seconds, by silo": "not protected: a network sees them",
}
"""Released figure: its guarantee. SECURITY.md shows this table."""
