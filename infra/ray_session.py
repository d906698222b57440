"""Start a Ray of our own on this machine, or join one that the user names.

Never joins by accident: without an address, RAY_ADDRESS is ignored and a fresh local Ray is
started, whose every port listens on 127.0.0.1.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from blindsum.platform.errors import ClusterError

OBJECT_STORE_BYTES = 512 * 2**20


@contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """Connect to Ray for the length of a `with` block; a Ray of our own ends with it.

    A Ray that this process is already connected to (a notebook's) is used and left alone.

    Args:
        address: of a cluster to join (`auto`, `HOST:PORT`, `ray://...`), or None for our own.

    Raises:
        ClusterError: Ray cannot be started or joined.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # The federation reads every error it needs; Ray would print the rest, with tracebacks.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    if address is None:
        # Ray's name for "this machine only": without it every port listens on all interfaces.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    if ray.is_initialized():
        yield
        return
    if address is not None:
        _require_listener(address)
    # Worker logs stay in their files: what a library prints inside a silo is the silo's.
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "namespace": "blindsum",
    }
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        if address is None:
            ray.init(
                "local", include_dashboard=False, _node_ip_address="127.0.0.1",
                object_store_memory=OBJECT_STORE_BYTES, **options,
            )  # fmt: skip
        else:
            ray.init(address, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        where = f"joined at {address!r}" if address else "started on this machine"
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ClusterError(
            f"Ray cannot be {where}: {reason}",
            "Check the address and its token (RAY_AUTH_TOKEN)."
            if address
            else "Check free memory and disk space in the temporary folder, then try again.",
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Ray would try for minutes to reach a port that nobody listens on."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise ClusterError(
            f"nothing answers at {address!r} ({error.strerror or type(error).__name__})",
            "Start the cluster, or correct --address; without it a local Ray is used.",
        ) from None
