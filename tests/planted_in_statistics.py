"""Faults planted in statistics: each must make a test fail."""

MOMENTS = "platform/training/statistics/moments.py"
PARTS = "platform/training/statistics/parts.py"
HERE = "tests/platform/test_statistics.py"

IN_STATISTICS = (
    (
        "statistics: values that are not cut",
        MOMENTS,
        "u = np.clip(u, -CUT, CUT)",
        "u = np.clip(u, -1e9, 1e9)",
        HERE,
    ),
    (
        "statistics: a record's values cut each by itself only",
        MOMENTS,
        "u *= np.minimum(1.0, self._standard.reach / np.maximum(norms, 1e-12))",
        "u *= np.minimum(1.0, 1e9 / np.maximum(norms, 1e-12))",
        HERE,
    ),
    (
        "statistics: the norm of sums with signs without the number of signs",
        MOMENTS,
        "return float(np.sqrt(SIGNS * (self.standard.reach**2 + others)))",
        "return float(np.sqrt(self.standard.reach**2 + others))",
        HERE,
    ),
    (
        "statistics: a record counted as one category although it has one of each column",
        PARTS,
        "return float(np.sqrt(max(1, len(self.variables.categories))))",
        "return 1.0",
        HERE,
    ),
    (
        "statistics: parts that each take the whole clip norm",
        "platform/training/statistics/describing.py",
        "return math.sqrt(part.share / whole) / part.norm",
        "return 1.0 / part.norm",
        HERE,
    ),
    (
        "statistics: intervals without the noise",
        "platform/training/statistics/figures.py",
        "value, spread = self._found.sums[part][at], self._z * self._found.deviations[part]",
        "value, spread = self._found.sums[part][at], 0.5",
        HERE,
    ),
    (
        "statistics: silos with more records than the sums allow for",
        "platform/training/statistics/describing.py",
        "if not self.exact and len(data.train) + len(data.test) > most:",
        "if not self.exact and len(data.train) + len(data.test) > 10 * most:",
        HERE,
    ),
)
