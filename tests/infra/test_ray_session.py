"""Joining a cluster: mismatches are reported at once, where Ray would try for minutes."""

import contextlib
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import ray

from blindsum.infra.ray_session import _private_folder, _require_listener, ray_session
from blindsum.platform.errors import ClusterError


def test_tls_on_one_side_only_is_reported_at_once(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tests/infra/test_cluster.py tests the opposite case, where the nodes have certificates."""
    _require_listener(cluster.address)
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with pytest.raises(ClusterError, match="does not speak TLS, but RAY_USE_TLS is set here"):
        _require_listener(cluster.address)


def test_rays_sockets_never_have_too_long_paths(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise Ray's files are in the user's own folder: tests/pipelines/test_cli.py."""
    monkeypatch.setenv("BLINDSUM_HOME", str(tmp_path_factory.mktemp("a-home-with-a-long-name")))
    made = Path(_private_folder())
    made.rmdir()
    assert made.parent == Path("/tmp")


def test_the_message_about_a_silent_port_names_the_resolved_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray resolves 127.0.0.1 to this machine's network address, and waited there for minutes."""
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
    monkeypatch.setattr(ray._private.ray_constants, "ENABLE_RAY_CLUSTER", True)
    monkeypatch.setattr(ray._private.worker, "_global_node", None)
    with socket.create_server(("127.0.0.1", 0)) as loopback:
        port = loopback.getsockname()[1]
        for address in (f"127.0.0.1:{port}", "auto"):
            monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
            with pytest.raises(
                ClusterError, match="which .* means here.*listens only on 127.0.0.1"
            ):
                _require_listener(address)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://head:8265", "dashboard.*blindsum submit --address http://head:8265 JOB.YAML"),
        ("https://head", "dashboard.*blindsum submit"),
        ("tcp://head:1", "not the address of a Ray cluster.*ray://HOST:PORT"),
    ],
)
def test_an_address_for_submit_is_named_before_ray_is_started(
    address: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", started)
    monkeypatch.setattr(socket, "create_connection", started)
    with pytest.raises(ClusterError, match=said), ray_session(address):
        pass


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN])
def test_ray_does_not_keep_the_handler_of_sigterm(
    before: signal.Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Ray's, a driver aborts: it kills the processes that the driver is connected to."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(
        ray, "init", lambda *_, **__: signal.signal(signal.SIGTERM, lambda *_: None)
    )
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    kept = signal.signal(signal.SIGTERM, before)
    try:
        with ray_session():
            within = signal.getsignal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, kept)
    # As Ctrl-C, so that the folder is removed; or what the caller had chosen.
    assert within is (signal.default_int_handler if before is signal.SIG_DFL else before)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, ValueError])
def test_a_local_rays_folder_remains_only_if_something_failed(
    error: type[BaseException] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = list[Path]()

    def init(*_: Any, _temp_dir: str, **__: Any) -> None:
        places.append(Path(_temp_dir).parent)
        if error is KeyboardInterrupt:
            raise KeyboardInterrupt

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with contextlib.suppress(KeyboardInterrupt, ValueError), ray_session():
        assert places[0].is_dir()
        if error:
            raise error
    assert places[0].exists() == (error is ValueError)
