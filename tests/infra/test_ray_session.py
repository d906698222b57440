"""Joining a cluster: what does not fit is said at once, where Ray would try for minutes."""

from typing import Any

import pytest

from blindsum.infra.ray_session import _require_listener
from blindsum.platform.errors import ClusterError


def test_tls_on_one_side_alone_is_said_at_once(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other way round: tests/infra/test_cluster.py, whose nodes have certificates."""
    _require_listener(cluster.address)
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with pytest.raises(ClusterError, match="does not speak TLS, and RAY_USE_TLS is set here"):
        _require_listener(cluster.address)
