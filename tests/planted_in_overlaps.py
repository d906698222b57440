"""Faults planted in overlaps and survival: each must make a test fail."""

OVERLAP = "platform/training/statistics/overlap.py"
SURVIVAL = "platform/training/statistics/survival.py"
DESCRIBING = "platform/training/statistics/describing.py"
SECTION = "platform/job/statistics_section.py"
HERE, OF_SURVIVAL = "tests/platform/test_overlap.py", "tests/platform/test_survival.py"
PROTOCOL = "tests/actors/test_overlap.py"

IN_OVERLAPS = (
    (
        "overlap: identifiers hashed without the key",
        OVERLAP,
        'begun, distinct = hmac.new(key, digestmod="sha256"), set(digests.tolist())',
        'begun, distinct = hmac.new(b"0", digestmod="sha256"), set(digests.tolist())',
        HERE,
    ),
    (
        "overlap: the key of identifiers is that of another purpose",
        "he/keys.py",
        "identifiers=identifiers,",
        "identifiers=verifiers,",
        "tests/he/test_keys.py",
    ),
    (
        "overlap: a sketch without noise",
        SECTION,
        'blindsum check compares them": (job.privacy.noise == "none"),',
        'blindsum check compares them": False,',
        HERE,
    ),
    (
        "overlap: an identifier that finds more than the norm allows",
        OVERLAP,
        "return np.array([np.clip(others, -self.norm, self.norm).sum()])",
        "return np.array([others.sum()])",
        HERE,
    ),
    (
        "overlap: an identifier that counts as often as a silo has it",
        OVERLAP,
        "set(digests.tolist())",
        "list(digests.tolist())",
        HERE,
    ),
    (
        "overlap: the look-up under the newest key instead of the sketch's",
        DESCRIBING,
        "key = self.secret if round == SKETCHED else _as_bytes(self.state[0])",
        "key = self.secret",
        PROTOCOL,
    ),
    (
        "overlap: intervals without the noise of the look-up and the sketch",
        OVERLAP,
        "deviation = math.sqrt(variance) / (2 * gain)",
        "deviation = 0.1 * math.sqrt(variance) / (2 * gain)",
        HERE,
    ),
    (
        "overlap: shared noise protects who stands in two silos as local noise does",
        "platform/privacy/overlapping.py",
        "return spent_epsilon(sigma / silos, 1 - (1 - rate) ** silos, steps, of_silo.delta)",
        "return spent_epsilon(sigma, rate, steps * silos, of_silo.delta)",
        HERE,
    ),
    (
        "survival: a record counted in two bins",
        SURVIVAL,
        "return np.bincount(at, minlength=self.size).astype(np.float64).reshape(self.shape)",
        "return np.bincount([*at, *at // 2], minlength=self.size).reshape(self.shape) + 0.0",
        OF_SURVIVAL,
    ),
    (
        "survival: intervals without the noise",
        "platform/training/statistics/survival_figures.py",
        "_log_log_variance(found) + np.var(_log_log(drawn.survival), axis=0)  # both on one scale",
        "_log_log_variance(found)",
        OF_SURVIVAL,
    ),
)
