"""Scaling of features by public constants, some of which come with Blindsum under a name.

Means computed from the silos' data would be a release outside the privacy plan. A named set of
constants never changes: a better one gets a new name.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from blindsum.platform.job.features_section import FIRST_SCALING, Scaling

CLIP = 5.0
"""Scaled features are cut to [-CLIP, CLIP]: one odd record cannot swamp a clipped gradient."""

SCALINGS = (FIRST_SCALING, "druglike-1")
"""The named sets, each a file beside this one, in `scalings/`:

esol-1       16 descriptors; rounded means and standard deviations of the public ESOL table
             (Delaney, 2004; 1,128 molecules). They are small: their mean weight is about 200.
druglike-1   198 descriptors, all that are finite on 7,957 molecules of ChEMBL 22 (CC BY-SA 3.0;
             every third molecule of DeepChem's selection) and are of use there; computed by
             `benchmarks/scalings.py --every 3`: mean and standard deviation after each descriptor
             is cut to its 1st and 99th percentile, rounded to three digits. Medians and quartiles
             would not do: most fragments are missing in three of four molecules.
"""


@cache
def public_scaling(name: str) -> dict[str, Scaling]:
    """Return the constants of a named set, by descriptor."""
    text = files(__package__).joinpath("scalings", f"{name}.csv").read_text("utf-8")
    return {
        row["descriptor"]: Scaling(center=float(row["center"]), scale=float(row["scale"]))
        for row in csv.DictReader(text.splitlines())
    }


def scaled(values: npt.NDArray[np.float64], scaling: Scaling) -> npt.NDArray[np.float64]:
    """Scale values, and cut them to [-CLIP, CLIP]."""
    with np.errstate(over="ignore"):  # infinity is beyond CLIP like any other number
        return np.clip((values - scaling.center) / scaling.scale, -CLIP, CLIP)
