"""Blindsum: federated training where neither the silos nor the server see another's data.

    import blindsum

    run = blindsum.run("job.yaml")                           # as the command `blindsum run`
    run = blindsum.simulate(job, {"north": frame, "south": frame})  # in this process

Names are imported when they are first used, so that `import blindsum` is quick.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if Path(__file__).with_name("he").is_file():
    # Git on Windows checks links out as text files, and every import of a room then fails.
    raise ImportError(
        "this checkout has no symbolic links, and Blindsum's packages are reached through them: "
        "run `git config core.symlinks true`, then `git checkout .`"
    )

if TYPE_CHECKING:
    from blindsum.pipelines.interface.job import Job
    from blindsum.pipelines.interface.model import Model
    from blindsum.pipelines.interface.run import Run
    from blindsum.pipelines.interface.simulation import simulate
    from blindsum.pipelines.interface.training import resume, run
    from blindsum.platform.errors import BlindsumError

try:
    __version__ = version("blindsum")
except PackageNotFoundError:  # a checkout on the path that was not installed
    __version__ = "0+unknown"
del Path, PackageNotFoundError, version

__all__ = ["BlindsumError", "Job", "Model", "Run", "resume", "run", "simulate"]

_PLACES = {
    "BlindsumError": "blindsum.platform.errors",
    "Job": "blindsum.pipelines.interface.job",
    "Model": "blindsum.pipelines.interface.model",
    "Run": "blindsum.pipelines.interface.run",
    "resume": "blindsum.pipelines.interface.training",
    "run": "blindsum.pipelines.interface.training",
    "simulate": "blindsum.pipelines.interface.simulation",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'blindsum' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_PLACES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
