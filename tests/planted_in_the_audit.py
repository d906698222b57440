"""Faults in the audit, as `tests/mutants.py` plants them: name, file, old, new, tests."""

PICTURES = "tests/pipelines/audit/test_pictures.py"
ANY_MODEL = "tests/pipelines/audit/test_any_model.py"
TREES = "tests/pipelines/audit/test_trees_audit.py"

IN_THE_AUDIT = (
    (
        "a silo's own pictures in a report",
        "pipelines/audit/attacks/drawn.py",
        "tried = Reconstruction(stands_in,",
        "tried = Reconstruction(victim,",
        PICTURES,
    ),
    (
        "noise left out of the audited update",
        "pipelines/audit/victim.py",
        "add_gaussian(one, plan.update_noise * plan.clip_norm, cryptographic_generator())",
        "pass",
        PICTURES,
    ),
    (
        "hits by chance that count as identified",
        "pipelines/audit/attacks/reconstruction.py",
        "max(guessed / count, 1 / len(self._pool), chance)",
        "max(guessed / count, 1 / len(self._pool))",
        PICTURES,
    ),
    (
        "noise left out of the models that texts are planted for",
        "pipelines/audit/victim.py",
        "return replace(self.plan.alone(), noise_multiplier=self.plan.update_noise)",
        "return replace(self.plan.alone(), noise_multiplier=0.0)",
        "tests/pipelines/audit/test_text_canaries.py",
    ),
    (
        "a reference without privacy that diverged",
        "pipelines/audit/victim.py",
        "better = min(models, key=lambda plan: self._loss(models[plan]))",
        "better = None",
        ANY_MODEL,
    ),
    (
        "narrow intervals of few models",
        "pipelines/audit/attacks/membership.py",
        "if among == 1 and len(scores) >= MANY:",
        "if among == 1:",
        ANY_MODEL,
    ),
    (
        "trees: noise left out of the sums that are attacked",
        "pipelines/audit/attacks/tree_sums.py",
        "noised = replace(bare, noise_multiplier=noise)",
        "noised = bare",
        TREES,
    ),
    (
        "trees: the noise of one silo where each of several adds its own",
        "pipelines/audit/attacks/tree_sums.py",
        "times = 1.0 if plan.share is not None else math.sqrt(silos - 1)",
        "times = 1.0",
        TREES,
    ),
    (
        "trees: sums that silos send without noise, for the audit's canaries to find",
        "platform/training/sums.py",
        "noise = plan.update_noise * plan.clip_norm * clipping",
        "noise = plan.update_noise * plan.clip_norm * clipping / 8",
        TREES,
    ),
    (
        "trees: records that were mixed up said to be read",
        "pipelines/audit/attacks/histograms.py",
        "return Counter() if hidden else values",
        "return values",
        TREES,
    ),
    (
        "trees: labels of a leaf that several sets of records fit",
        "pipelines/audit/attacks/leaves.py",
        "if (last - first).sum() != 1:",
        "if (last - first).sum() < 1:",
        TREES,
    ),
)
