"""What jobs have in common whose models follow from sums over records, and not from gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blindsum.platform.job.average_section import LAST
from blindsum.platform.job.training_section import ServerSection, TrainingSection

if TYPE_CHECKING:
    from blindsum.platform.job.schema import Job


def gradient_settings(job: Job, rounds: int, why: str = "") -> dict[str, bool]:
    """Return the faults that such a job can have, and whether it has them.

    Args:
        rounds: how many it needs.
        why: why so many.
    """
    training, privacy = job.training, job.privacy
    plain = TrainingSection(
        rounds=training.rounds,
        sampling_rate=training.sampling_rate,
        expected_batch_size=training.expected_batch_size,
        learning_rate=training.learning_rate,
        local_steps=training.local_steps,
        average=LAST,
    )
    return {
        f"training.rounds must be {rounds}{why}": training.rounds != rounds,
        "training.local_steps must be 1": training.local_steps != 1,
        "training has settings for gradients, beside rounds, local_steps, sampling_rate, "
        "expected_batch_size and learning_rate": training != plain,
        "server is for gradients": job.server != ServerSection(),
        "encryption.range follows from the sums": job.encryption.range is not None,
        "encryption.error_feedback is for gradients": job.encryption.error_feedback,
        "privacy.clip_quantile is for gradients": (
            privacy.noise != "none" and privacy.clip_quantile is not None
        ),
        "silos.NAME.workers and resources are for gradients": any(
            silo.workers > 1 or silo.resources.gpus for silo in job.silos
        ),
    }
