"""The units for systemd: their commands exist, and their settings are ones that systemd knows."""

import configparser
from pathlib import Path

import pytest

from blindsum.platform.job.owner import places
from tests.infra.commands import blindsum_commands, parsed

FOLDER = Path(__file__).resolve().parents[2] / "infra/systemd"
UNITS = ("blindsum-coordinator", "blindsum-silo")
STATE = "/var/lib/blindsum"


def unit(name: str) -> configparser.ConfigParser:
    read = configparser.ConfigParser(interpolation=None, strict=True)
    read.optionxform = str  # type: ignore[assignment,method-assign]
    read.read_string((FOLDER / f"{name}.service").read_text())
    return read


def test_the_commands_exist() -> None:
    served = {}
    for name in UNITS:
        (arguments,) = blindsum_commands(unit(name)["Service"]["ExecStart"])
        command, parameters = parsed(arguments)
        served[command] = parameters
    assert served["coordinator serve"]["folder"] == Path(STATE, "coordinator")
    assert served["silo serve"]["file"] == places()[0]
    commands = [parsed(one) for one in blindsum_commands((FOLDER / "README.md").read_text())]
    assert [name for name, _ in commands] == [
        "coordinator init",
        "silo init",
        "silo join",
        "silo approve",
    ]
    assert commands[0][1]["folder"] == served["coordinator serve"]["folder"]
    assert commands[1][1]["state"].is_relative_to(STATE) and commands[1][1]["system"]


@pytest.mark.parametrize("name", UNITS)
def test_a_service_writes_only_to_its_state_folder(name: str) -> None:
    service = unit(name)["Service"]
    assert service["User"] == service["Group"] == "blindsum"
    assert service["StateDirectory"] == Path(STATE).name and service["StateDirectoryMode"] == "0700"
    assert service["ProtectSystem"] == "strict" and "ReadWritePaths" not in service
    assert service["Environment"] == f"BLINDSUM_HOME={STATE}"
    assert service["NoNewPrivileges"] == "yes" and service["UMask"] == "0077"
    # PyTorch and Ray need these.
    assert not {"MemoryDenyWriteExecute", "ProcSubset", "PrivateNetwork"} & set(service)
    assert "AF_UNIX" in service["RestrictAddressFamilies"]


def test_only_the_coordinator_has_a_capability() -> None:
    coordinator, silo = (unit(name)["Service"] for name in UNITS)
    assert coordinator["CapabilityBoundingSet"] == "CAP_NET_BIND_SERVICE"
    assert silo["CapabilityBoundingSet"] == "" and "AmbientCapabilities" not in silo
