"""Faults planted in boosted trees: each must make a test fail."""

BOOSTING, HERE = "platform/training/trees/boosting.py", "tests/platform/test_trees.py"
GAPS = "tests/platform/test_trees_gaps.py"
SUMS = "platform/training/sums.py"
PROTOCOL = "tests/actors/test_trees.py"

IN_TREES = (
    (
        "trees: a record counted as one bin although it is in one of each feature",
        BOOSTING,
        "norms = np.sqrt(places * (g * g + h * h).sum(1))",
        "norms = np.sqrt((g * g + h * h).sum(1))",
        HERE,
    ),
    (
        "trees: outputs clipped each by itself",
        BOOSTING,
        "norms = np.sqrt(places * (g * g + h * h).sum(1))",
        "norms = np.sqrt(places * (g * g + h * h).max(1))",
        HERE,
    ),
    (
        "trees: second derivatives without a norm",
        BOOSTING,
        "norms = np.sqrt(places * (g * g + h * h).sum(1))",
        "norms = np.sqrt(places * (g * g).sum(1))",
        HERE,
    ),
    (
        "trees: gradients clipped at an earlier round's norm",
        BOOSTING,
        "key = (*self._counted, clip)",
        "key = self._counted",
        HERE,
    ),
    (
        "trees: records descend from where they stood in another forest",
        BOOSTING,
        "if last and last.level <= deep and last.above == one.above(last.level):",
        "if last and last.level <= deep:",
        HERE,
    ),
    (
        "trees: sums without the noise that a silo adds alone",
        SUMS,
        "sums = (sums + noise * normals(sums.size, self._random)) * unit",
        "sums = sums * unit",
        PROTOCOL,
    ),
    (
        "trees: sums without shares said to have noise",
        SUMS,
        "_BARE = Protection.SHARES_TO_ADD",
        "_BARE = Protection.OWN_NOISE",
        PROTOCOL,
    ),
    (
        "trees: splits drawn anew from the system",
        "platform/training/trees/structures.py",
        'random = seeded_generator(seed, "splits of a tree", tree, output)',
        "random = np.random.default_rng()",
        HERE,
    ),
    (
        "trees: sides of gaps drawn anew from the system",
        "platform/training/trees/structures.py",
        'sides = seeded_generator(seed, "sides of gaps in a tree", tree, output)',
        "sides = np.random.default_rng()",
        GAPS,
    ),
    (
        "trees: a gap counted in the last bin of values, to which any value may belong",
        "platform/training/trees/bins.py",
        "found[np.isnan(features)] = self.most - 1",
        "found[np.isnan(features)] = self.most - 2",
        GAPS,
    ),
)
