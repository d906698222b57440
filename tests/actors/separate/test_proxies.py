"""The agent behind its company's proxy."""

from __future__ import annotations

import pytest

from blindsum.actors.separate import client
from blindsum.actors.separate.client import environment_proxy
from blindsum.actors.separate.server import server_context
from blindsum.infra.certificates import CA_CERTIFICATE, NODE_CERTIFICATE, NODE_KEY, make_node
from blindsum.platform.errors import ClusterError
from tests.actors.separate.conftest import Make
from tests.actors.separate.networks import Proxy
from tests.actors.separate.organisations import Organisation, until

PASSWORD = "u s%er:p@ss"
QUOTED = "u%20s%25er:p%40ss"


def told(silo: Organisation, part: str) -> str:
    """Return the line in which the agent says something."""
    return str(until(lambda: next((line for line in silo.said if part in line), None), 10))


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_silo_yaml_names_the_proxy_with_its_password(consortium: Make) -> None:
    one = consortium()
    with Proxy(PASSWORD) as proxy:
        one.enrol("alder", link={"proxy": f"http://{QUOTED}@127.0.0.1:{proxy.port}"})
        one.start("alder")
        until(lambda: one.connected("alder"), 10)
        assert set(proxy.asked) == {f"127.0.0.1:{one.coordinator.port}"} and not proxy.refused


def test_a_proxy_that_is_reached_over_tls(consortium: Make) -> None:
    """Its certificate must be by the authority that the silo trusts for the coordinator's."""
    one = consortium()
    made = make_node(one.coordinator.folder, "proxy", ["127.0.0.1"], 30)
    shown = server_context(made / NODE_CERTIFICATE, made / NODE_KEY, made / CA_CERTIFICATE)
    with Proxy(PASSWORD, tls=shown) as proxy:
        one.enrol("alder", link={"proxy": f"https://{QUOTED}@127.0.0.1:{proxy.port}"})
        one.start("alder")
        until(lambda: one.connected("alder"), 10)
        assert proxy.asked and not proxy.refused


def test_the_environment_names_the_proxy_and_silo_yaml_another_one(
    consortium: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = consortium()
    with Proxy(PASSWORD) as of_environment, Proxy() as of_file:
        monkeypatch.setenv("HTTPS_PROXY", f"{QUOTED}@127.0.0.1:{of_environment.port}")
        one.enrol("alder")
        one.enrol("birch", link={"proxy": f"http://127.0.0.1:{of_file.port}"})
        for name in one.organisations:
            one.start(name)
            until(lambda name=name: one.connected(name), 10)
        assert of_environment.asked and of_file.asked and not of_environment.refused


def test_no_proxy_excepts_the_coordinator(
    consortium: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = consortium()
    with Proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
        one.enrol("alder")
        one.start("alder")
        until(lambda: one.connected("alder"), 10)
        assert proxy.connections == 0


@pytest.mark.parametrize(
    ("no_proxy", "excepted"),
    [
        ("example.org", True),
        (".example.org,other.example", True),
        ("gate.example.org:8443", True),
        ("*", True),
        ("gate.example.org:443", False),
        ("ample.org", False),
        ("", False),
    ],
)
def test_no_proxy_names_domains_and_ports(
    no_proxy: str, excepted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    monkeypatch.setenv("no_proxy", no_proxy)
    expected = None if excepted else "http://proxy.example:3128"
    assert environment_proxy("https://gate.example.org:8443/v1/poll") == expected


def test_no_proxy_excepts_an_ipv6_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "https://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "::1")
    assert environment_proxy("https://[::1]:8443/v1/poll") is None
    assert environment_proxy("https://[::2]:8443/v1/poll") == "https://proxy.example:3128"


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "http://"])
def test_a_proxy_of_another_kind_is_said(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(ClusterError, match="HTTPS_PROXY does not name a proxy that can be used"):
        environment_proxy("https://gate.example.org:8443")


def test_a_wrong_password_is_said_in_one_line(consortium: Make) -> None:
    one = consortium()
    with Proxy(PASSWORD) as proxy:
        silo = one.enrol("alder", link={"proxy": f"http://user:wrong@127.0.0.1:{proxy.port}"})
        one.start("alder")
        line = told(silo, "the proxy")
        assert line == (
            "not connected: the proxy refuses (407 Proxy Authentication Required). Trying again."
        )
        until(lambda: proxy.refused > 2, 10)
        assert silo.said == [line] and "wrong" not in line


def test_a_proxy_that_accepts_a_connection_and_never_answers(
    consortium: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CONNECT_S", 0.3)
    one = consortium()
    with Proxy(deaf=True) as proxy:
        silo = one.enrol("alder", link={"proxy": f"http://127.0.0.1:{proxy.port}"})
        one.start("alder")
        assert told(silo, "not connected") == "not connected: no answer in time. Trying again."
