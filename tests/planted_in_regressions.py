"""Faults planted in regressions: each must make a test fail."""

ROOM = "platform/training/regression"
RECORDS, FITTING, INFERENCE = (f"{ROOM}/{name}.py" for name in ("records", "fitting", "inference"))
HERE, PROTOCOL = "tests/platform/test_regression.py", "tests/actors/test_regressions.py"

IN_REGRESSIONS = (
    (
        "regression: a record that is not clipped",
        RECORDS,
        "factors = np.minimum(1.0, clip / (bound + STABLE))",
        "factors = np.ones_like(bound)",
        HERE,
    ),
    (
        "regression: scores and information clipped each by itself",
        RECORDS,
        "np.sqrt(score**2 + information**2 + squares**2)",
        "np.maximum(score, information)",
        HERE,
    ),
    (
        "regression: squared residuals without a norm",
        RECORDS,
        "squares = self.of_squares * greatest**2 if",
        "squares = 0 * greatest if",
        HERE,
    ),
    (
        "regression: residuals of numbers without a bound",
        f"{ROOM}/families.py",
        "np.clip(labels - means, -self.bound, self.bound)",
        "labels - means",
        HERE,
    ),
    (
        "regression: a factor that depends on the label",
        RECORDS,
        "score = self.of_score * greatest * length",
        "score = self.of_score * np.abs(means - 0.3) * length",
        HERE,
    ),
    (
        "regression: errors without the noise on scores",
        INFERENCE,
        "noise = regressing.noise_of_score**2",
        "noise = 0.0",
        HERE,
    ),
    (
        "regression: errors as if one silo had added its share",
        "platform/privacy/plan.py",
        "return math.hypot(*(own.own_noise for name in job.roster if (own := plan(job, name))))",
        "return max(own.own_noise for name in job.roster if (own := plan(job, name)))",
        PROTOCOL,
    ),
    (
        "regression: errors although the noise is as large as the information",
        INFERENCE,
        "if float(values.min()) < LEAST_EIGENVALUE * least:",
        "if False:",
        HERE,
    ),
    (
        "regression: errors although classes are separated",
        FITTING,
        "if step <= SMALL and shrinks > ENDLESS:",
        "if False:",
        HERE,
    ),
)
