"""Start a Ray of our own on this machine, or join one that the user names.

Never joins by accident: without an address, RAY_ADDRESS is ignored and a fresh local Ray is
started, whose every port listens on 127.0.0.1.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
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
    _quieten_listener()
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


def _quieten_listener() -> None:
    """Under TLS, Ray 2.60's thread that listens for other workers' messages connects without it, and its
    traceback would reach the user. What it would have said is withheld here anyway."""
    before = threading.excepthook
    if getattr(before, "quiet", False):
        return

    def hook(failed: threading.ExceptHookArgs) -> None:
        if failed.thread is None or failed.thread.name != "ray_listen_error_messages":
            before(failed)

    hook.quiet = True  # type: ignore[attr-defined]
    threading.excepthook = hook


def _require_listener(address: str) -> None:
    """Ray would try for minutes to reach a port that nobody listens on."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=10) as connection:
            _require_alike(connection, address)
    except OSError as error:
        raise ClusterError(
            f"nothing answers at {address!r} ({error.strerror or type(error).__name__})",
            "Start the cluster, or correct --address; without it a local Ray is used.",
        ) from None


def _require_alike(connection: socket.socket, address: str) -> None:
    """With TLS on one side alone, Ray would try for minutes, and not say why."""
    ours = os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # Ray verifies
    context.set_alpn_protocols(["h2"])
    try:
        context.wrap_socket(connection).close()
        theirs = True
    except (ssl.SSLError, ConnectionError, TimeoutError):
        theirs = False
    if ours != theirs:
        raise ClusterError(
            f"{address!r} {'wants' if theirs else 'does not speak'} TLS, and RAY_USE_TLS is "
            f"{'not set' if theirs else 'set'} here",
            "Set RAY_USE_TLS and the certificates as on the cluster's nodes: blindsum certificates node."
            if theirs
            else "Unset RAY_USE_TLS, or start the cluster with it.",
        )
