"""This installation as a wheel, for nodes that lack it, and its pinned requirements.

Ray installs a wheel among `py_modules` with pip on every node, together with the requirements that
the wheel declares. This wheel therefore declares none. `requirements` go to the `pip` field of the
runtime environment instead: a node that already has them downloads nothing. Ray identifies a wheel
only by its file name, so the name includes a digest of the content.
"""

from __future__ import annotations

import hashlib
import shutil
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from blindsum.platform.errors import ClusterError

DISTRIBUTION = "blindsum"


def make_wheel(folder: Path) -> Path:
    """Write this installation's code as a wheel, and return its path.

    Raises:
        ClusterError: the folder cannot be written.
    """
    from wheel.wheelfile import WheelFile

    content = folder / "content"
    try:
        shutil.copytree(
            str(files(DISTRIBUTION)),
            content / DISTRIBUTION,
            ignore=shutil.ignore_patterns("__pycache__", "*.pyc"),
        )
        version = f"{Version(distribution(DISTRIBUTION).version).public}+{digest_of(content)}"
        info = content / f"{DISTRIBUTION}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {version}\n"
        )
        (info / "WHEEL").write_text(
            "Wheel-Version: 1.0\nGenerator: blindsum\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        path = folder / f"{DISTRIBUTION}-{version}-py3-none-any.whl"
        with WheelFile(str(path), "w") as wheel:
            wheel.write_files(str(content))
    except OSError as error:
        raise ClusterError(
            f"the wheel cannot be written in {folder}: {error.strerror}",
            "Check that the disk has room and the folder is writable.",
        ) from None
    shutil.rmtree(content)
    return path


def requirements() -> list[str]:
    """Return Blindsum's requirements, direct and indirect, pinned to the versions installed here.

    Ray and packages that only Ray requires are left out: a node has the cluster's Ray.
    """
    # Without the suffix of a local build ("+cpu"), which registries do not have.
    pins = {name: Version(one.version).public for name, one in installed(without="ray").items()}
    return [f"{name}=={version}" for name, version in pins.items()]


def installed(without: str = "") -> dict[str, Distribution]:
    """Return what Blindsum requires and is installed here, direct and indirect, by name.

    Args:
        without: a package that is left out, with what only it requires.
    """
    known: dict[str, Distribution] = {}
    open_: list[tuple[str, frozenset[str]]] = [
        (text, frozenset()) for text in distribution(DISTRIBUTION).requires or []
    ]
    seen: set[tuple[str, frozenset[str]]] = set()
    while open_:
        text, extras = open_.pop()
        needed = Requirement(text)
        wanted = any(
            needed.marker is None or needed.marker.evaluate({"extra": extra})
            for extra in ("", *extras)
        )
        key = (str(canonicalize_name(needed.name)), frozenset(needed.extras))
        if not wanted or key in seen or key[0] == without:
            continue
        seen.add(key)
        try:
            known[key[0]] = found = distribution(needed.name)
        except PackageNotFoundError:
            continue  # an optional requirement that is not installed here
        open_ += [(needs, key[1]) for needs in found.requires or []]
    return {name: known[name] for name in sorted(known)}


def digest_of(content: Path) -> str:
    """Return a digest of all file names and contents, 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(p for p in content.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(content)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
