"""Starts a local Ray on this machine, or joins one that the user names.

It never joins a cluster by accident: without an address, RAY_ADDRESS is ignored and a fresh local
Ray is started, all of whose ports listen on 127.0.0.1. Its logs, sockets and spilled objects lie in
a folder that only its user can enter, and are removed with it unless something failed.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
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
from blindsum.platform.job.owner import NOWHERE
from blindsum.platform.job.paths import home_folder

OBJECT_STORE_BYTES = 512 * 2**20

_LONGEST_FOLDER = 39
"""Longest path of a local Ray's folder. Ray's sockets have paths up to 66 characters longer, and a
socket's path has at most 107 (unix(7))."""

_KEPT_S = 7 * 24 * 3600
"""Seconds for which the folder of a local Ray is kept after a failure."""


@contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """Connect to Ray for the length of a `with` block; a local Ray ends with the block.

    If this process is already connected to a Ray (in a notebook), that one is used and left
    running.

    Args:
        address: address of a cluster to join (`auto`, `HOST:PORT`, `ray://...`), or None to start a
            local Ray.

    Raises:
        ClusterError: Ray cannot be started or joined.
    """
    _set_environment(local=address is None)
    if address is not None:
        _require_no_web_address(address)
    _ensure_home()
    import ray

    if ray.is_initialized():
        yield
        return
    if address is not None:
        _require_listener(address)
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    folder, failed = None if address else _private_folder(), False
    try:
        _connect(address, folder)
        # Ray's own handler of SIGTERM kills its processes under the driver, which then aborts.
        _hear(signal.default_int_handler if before is signal.SIG_DFL else before)
        try:
            yield
        except Exception:
            failed = True
            raise
        finally:
            ray.shutdown()
            _hear(before)
    finally:
        if folder and not failed:
            shutil.rmtree(folder, ignore_errors=True)


def _set_environment(local: bool) -> None:
    """Set what Ray reads from the environment, and its processes inherit."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # The federation reads the errors that it needs; Ray would print the others with tracebacks.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    if local:
        # Ray gives its workers the smallest share of a processor. On a busy machine silos would
        # then miss their deadlines, while the driver waits for them.
        os.environ.setdefault("RAY_worker_niceness", "0")
        # This setting restricts Ray to this machine; without it, ports listen on all interfaces.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def _connect(address: str | None, folder: str | None) -> None:
    """Start a local Ray in that folder, or join the one at that address.

    Raises:
        ClusterError: neither is possible.
    """
    import ray

    # Worker logs stay in their files: a library's output inside a silo is private to the silo.
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
                "local",
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=f"{folder}/r",
                object_store_memory=OBJECT_STORE_BYTES,
                **options,
            )
        else:
            ray.init(address, **options)
    except Exception as error:  # noqa: BLE001 - Ray raises plain Exception for a slow start
        where = f"joined at {address!r}" if address else "started on this machine"
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ClusterError(
            f"Ray cannot be {where}: {reason}",
            "Check the address and its token (RAY_AUTH_TOKEN)."
            if address
            else "Try again if the machine is busy; otherwise check free memory and disk space.",
        ) from None


def _hear(handler: Any) -> None:
    """Let that handler answer SIGTERM, where this thread may say so."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _ensure_home() -> None:
    """Set HOME for a user without a home folder, as in a container: Ray keeps its token there.

    Raises:
        ClusterError: BLINDSUM_HOME, which takes its place, is not set either.
    """
    try:
        Path.home()
    except RuntimeError:
        if home_folder().parent == NOWHERE:
            raise ClusterError(
                "Ray needs a home folder, and this user has none",
                "Set HOME or BLINDSUM_HOME to a writable folder.",
            ) from None
        os.environ["HOME"] = str(home_folder())


def _private_folder() -> str:
    """Create a folder for one local Ray, mode 0700, and return it.

    It lies in Blindsum's home folder, unless that path is too long for Ray. (Ray's own folder
    inside it is open to everyone.)

    Raises:
        ClusterError: the folder cannot be created.
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
            f"no folder for Ray can be created in {home} ({error.strerror})",
            "Make room there, or set BLINDSUM_HOME to a writable folder.",
        ) from None


def _quieten_listener() -> None:
    """Silence a thread of Ray's that fails under TLS.

    Ray 2.60's thread that listens for other workers' error messages connects without TLS, and its
    traceback would reach the user. Its messages are not shown here in any case.
    """
    before = threading.excepthook
    if getattr(before, "quiet", False):
        return

    def hook(failed: threading.ExceptHookArgs) -> None:
        if failed.thread is None or failed.thread.name != "ray_listen_error_messages":
            before(failed)

    hook.quiet = True  # type: ignore[attr-defined]
    threading.excepthook = hook


def _require_no_web_address(address: str) -> None:
    """Raise ClusterError for the address of a cluster's dashboard: a driver cannot join there."""
    scheme, found, _ = address.partition("://")
    if not found or scheme == "ray":
        return
    if scheme in ("http", "https"):
        raise ClusterError(
            f"{address!r} is the address of a cluster's dashboard, to which jobs are submitted",
            f"Submit the job: blindsum submit --address {address} JOB.YAML. Or give the address of "
            "the cluster itself: --address HOST:6379.",
        )
    raise ClusterError(
        f"{address!r} is not the address of a Ray cluster",
        "Write HOST:PORT, ray://HOST:PORT or auto.",
    )


def _require_listener(address: str) -> None:
    """Raise ClusterError if nothing listens at an address: Ray would try to connect for minutes."""
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
            "listens only on 127.0.0.1 cannot be joined: start it with ray start --head "
            "--node-ip-address HOST.",
        ) from None


def _resolved(address: str) -> str:
    """Return HOST:PORT as Ray itself resolves an address.

    `auto` becomes the Ray that is found on this machine, and a loopback address becomes this
    machine's network address.

    Raises:
        ClusterError: no Ray is found on this machine.
    """
    if "://" in address:
        return address
    from ray._private.services import canonicalize_bootstrap_address

    try:
        return canonicalize_bootstrap_address(address) or address
    except ConnectionError:
        raise ClusterError(
            f"no Ray is running on this machine, so {address!r} cannot be resolved",
            "Start one, or give its address: --address HOST:PORT. Without --address a local Ray "
            "is used.",
        ) from None
    except ValueError:
        return address  # Ray then reports what is wrong with it


def _require_alike(connection: socket.socket, address: str) -> None:
    """Raise ClusterError if only one side uses TLS: Ray would try for minutes without a reason."""
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
            f"{address!r} {'requires' if theirs else 'does not speak'} TLS, but RAY_USE_TLS is "
            f"{'not set' if theirs else 'set'} here",
            "Set RAY_USE_TLS and the certificates as on the cluster's nodes: "
            "blindsum certificates node."
            if theirs
            else "Unset RAY_USE_TLS, or start the cluster with it.",
        )
