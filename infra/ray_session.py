"""Start a Ray of our own on this machine, or join one that the user names.

Never joins by accident: without an address, RAY_ADDRESS is ignored and a fresh local Ray is
started, whose every port listens on 127.0.0.1. Its logs, sockets and spilled objects lie in a
folder that its user alone can enter, and go with it unless something failed.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blindsum.platform.errors import ClusterError
from blindsum.platform.job.paths import home_folder

OBJECT_STORE_BYTES = 512 * 2**20

_LONGEST_FOLDER = 39
"""Ray's sockets lie up to 66 characters below its folder, and a socket's path has 107 at most (unix(7))."""

_KEPT_S = 7 * 24 * 3600
"""How long the folder of a Ray that did not end well is kept."""


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
    folder = None if address else _private_folder()
    try:
        if address is None:
            ray.init(
                "local",
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=f"{folder}/r",
                object_store_memory=OBJECT_STORE_BYTES,
                **options,
            )
        else:
            ray.init(address, **options)
    except Exception as error:  # noqa: BLE001 - Ray raises that itself where a node starts too slowly
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
        where = f"joined at {address!r}" if address else "started on this machine"
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ClusterError(
            f"Ray cannot be {where}: {reason}",
            "Check the address and its token (RAY_AUTH_TOKEN)."
            if address
            else "Check free memory and disk space in the temporary folder, then try again.",
        ) from None
    failed = True
    try:
        yield
        failed = False
    except (KeyboardInterrupt, SystemExit):
        failed = False
        raise
    finally:
        ray.shutdown()
        if folder and not failed:
            shutil.rmtree(folder, ignore_errors=True)


def _private_folder() -> str:
    """A new folder for one Ray of our own, mode 0700: in our home, unless that is too long for Ray.
    (Ray opens its own folder, in there, to everyone.)

    Raises:
        ClusterError: it cannot be made.
    """
    prefix = f"ray-{os.getuid()}-"
    home = home_folder()
    if len(str(home)) + len(f"/{prefix}12345678") > _LONGEST_FOLDER:
        home = Path("/tmp")
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        for old in home.glob(f"{prefix}*"):
            if time.time() - old.stat().st_mtime > _KEPT_S:
                shutil.rmtree(old, ignore_errors=True)
        return tempfile.mkdtemp(prefix=prefix, dir=home)
    except OSError as error:
        raise ClusterError(
            f"no folder for Ray can be made in {home} ({error.strerror})",
            "Make room there, or set BLINDSUM_HOME to a folder that can be written.",
        ) from None


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
    found = _resolved(address)
    host, _, port = found.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=10) as connection:
            _require_alike(connection, address)
    except OSError as error:
        shown = repr(address) if address == found else f"{found!r}, which {address!r} means here"
        raise ClusterError(
            f"nothing answers at {shown} ({error.strerror or type(error).__name__})",
            "Start the cluster, or correct --address; without it a local Ray is used. A Ray that "
            "listens on 127.0.0.1 alone cannot be joined: start it with ray start --head "
            "--node-ip-address HOST.",
        ) from None


def _resolved(address: str) -> str:
    """HOST:PORT as Ray itself understands an address: of `auto` the Ray that it finds, and in place of
    a loopback address this machine's own.

    Raises:
        ClusterError: there is no Ray on this machine to be found.
    """
    if "://" in address:
        return address
    from ray._private.services import canonicalize_bootstrap_address

    try:
        return canonicalize_bootstrap_address(address) or address
    except ConnectionError:
        raise ClusterError(
            f"no Ray runs on this machine that {address!r} could mean",
            "Start one, or give its address: --address HOST:PORT. Without --address a local Ray "
            "is used.",
        ) from None
    except ValueError:
        return address  # Ray says what is wrong with it


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
