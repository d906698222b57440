"""Blindsum: federated training where neither the silos nor the server see another's data."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

if Path(__file__).with_name("he").is_file():
    # Git on Windows checks links out as text files, and every import of a room then fails.
    raise ImportError(
        "this checkout has no symbolic links, and Blindsum's packages are reached through them: "
        "run `git config core.symlinks true`, then `git checkout .`"
    )

try:
    __version__ = version("blindsum")
except PackageNotFoundError:  # a checkout on the path that was not installed
    __version__ = "0+unknown"
del Path, PackageNotFoundError, version
