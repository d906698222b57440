"""What is doubtful about a job's settings, seen from the job alone.

Each warning says what the setting does. None refuses a job: a benchmark may want any of them. The
silos look for faults of the data.
"""

from __future__ import annotations

from collections.abc import Iterator

from blindsum.platform.job.schema import Job

MOST_USEFUL_EPSILON = 20.0
"""Above this an epsilon promises little: a factor e^20 on the odds is 485 million."""

_FEWEST_RECORDS = 30
_MOST_RECORDS = 1e8
_SELDOM = 0.05
_LARGEST_STEP = 100.0
"""Local learning rate above which a step of a clipped mean gradient is far longer than the weights
that it changes."""
_LARGEST_SERVER_STEP = {"sgd": 10.0, "momentum": 10.0, "adam": 1.0}


def doubtful_epsilon(epsilon: float, what: str) -> str | None:
    """Return what an epsilon above MOST_USEFUL_EPSILON means, or None.

    Args:
        what: the setting or limit, as its reader knows it.
    """
    if epsilon <= MOST_USEFUL_EPSILON:
        return None
    return (
        f"{what} {epsilon:g} promises little: already at {MOST_USEFUL_EPSILON:g}, whoever sees "
        "the model may raise the odds that a record took part by a factor of 485 million. Useful "
        "values are about 1 to 10"
    )


def job_warnings(job: Job) -> list[str]:
    """Return one sentence for each doubtful setting of a job."""
    if not job.model.is_scored:  # expected_batch_size is then a bound, and nothing is sampled
        return [*_of_epsilon(job)]
    return [*_of_epsilon(job), *_of_delta(job), *_of_sampling(job), *_of_learning_rates(job)]


def expected_records(job: Job) -> float:
    """Return the training records of a silo that the job expects: expected_batch_size divided by
    sampling_rate."""
    return job.training.expected_batch_size / job.training.sampling_rate


def _of_epsilon(job: Job) -> Iterator[str]:
    if job.privacy.noise == "none":
        return
    named = [("privacy.epsilon", job.privacy.epsilon)]
    named += [("privacy.metrics_epsilon", job.privacy.metrics_epsilon or 0.0)]
    named += [(f"silos.{silo.name}.epsilon", silo.epsilon or 0.0) for silo in job.silos]
    for what, epsilon in named:
        if found := doubtful_epsilon(epsilon, what):
            yield found


def _of_delta(job: Job) -> Iterator[str]:
    if job.privacy.noise == "none":
        return
    delta, records = job.privacy.delta, expected_records(job)
    if delta * records > 1:
        yield (
            f"privacy.delta {delta:g} is above 1 / {records:.0f}, one over a silo's expected "
            "records (expected_batch_size / sampling_rate): a model that published a whole record "
            "would meet it. Use at most a tenth of that"
        )


def _of_sampling(job: Job) -> Iterator[str]:
    training, records = job.training, expected_records(job)
    size, rate = training.expected_batch_size, training.sampling_rate
    if not _FEWEST_RECORDS <= records <= _MOST_RECORDS:
        yield (
            f"training.expected_batch_size {size:g} at sampling_rate {rate:g} means {records:.3g} "
            "training records at each silo. It divides the sum of gradients: if silos have more, "
            "steps are too long by that factor; if they have fewer, too short"
        )
    steps = training.rounds * training.local_steps
    taking_part = 1 - (1 - rate) ** steps
    if job.privacy.noise != "none" and taking_part <= 10 * job.privacy.delta:
        yield (
            f"training.sampling_rate {rate:g}: over {steps} steps a record takes part with "
            f"probability {taking_part:.2g}, which privacy.delta {job.privacy.delta:g} nearly or "
            "wholly allows to leak. An epsilon near 0 then says nothing: everything lies in delta"
        )
    elif taking_part < _SELDOM:
        yield (
            f"training.sampling_rate {rate:g}: over {steps} steps a record takes part with "
            f"probability {taking_part:.2g}, so the model learns from few of the records. Raise "
            "sampling_rate, rounds or local_steps"
        )


def _of_learning_rates(job: Job) -> Iterator[str]:
    rate = job.training.learning_rate
    if rate > _LARGEST_STEP:
        yield (
            f"training.learning_rate {rate:g} is above {_LARGEST_STEP:g}: steps will overshoot, "
            "and updates are cut at the range that is encrypted. The budget is charged all the same"
        )
    server = job.server
    bound = _LARGEST_SERVER_STEP[server.optimizer]
    if server.learning_rate > bound:
        yield (
            f"server.learning_rate {server.learning_rate:g} is above {bound:g} for "
            f"{server.optimizer}: every silo multiplies the mean update by it, and the model will "
            "overshoot. The budget is charged all the same"
        )
