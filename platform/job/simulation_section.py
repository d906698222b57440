"""Simulated silos that share processes: for simulations alone, where one party holds all records.

One process then has the records, keys and ledgers of all its silos, so that it protects none of
them from another. Real owners are refused it wherever Blindsum can tell that they are there.
"""

from __future__ import annotations

from pydantic import Field

from blindsum.platform.job.section import Section


class SimulationSection(Section):
    """How silos that one party simulates are run."""

    silos_per_process: int = Field(
        ge=1,
        le=64,
        description="Number of simulated silos in each process, which has all of their records "
        "and keys. Default, without this section: a process for each silo.",
    )

    def said(self, silos: int) -> str:
        """Return what everything says of a run of that many silos."""
        shared = min(self.silos_per_process, silos)
        return (
            f"simulated: {shared} silos share a process, which has the records and keys of all of "
            "them: none of them is protected from another. Not for real owners"
        )
