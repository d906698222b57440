"""The manifests of separate clusters are valid, and fit Blindsum's commands, ports and paths."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from blindsum.platform.job.owner import OwnerFile, places
from tests.infra.commands import blindsum_commands, parsed
from tests.infra.manifests import documents, require_valid

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "infra/kubernetes/separate"
COORDINATOR, SILO = (
    [FOLDER / "coordinator.yaml"],
    [FOLDER / "silo-setup.yaml", FOLDER / "silo.yaml"],
)
README = (FOLDER / "README.md").read_text()


def of_kind(files: list[Path], kind: str) -> Any:
    """Return the only manifest of a kind."""
    (found,) = (one for one in documents(files) if one["kind"] == kind)
    return found


def head(files: list[Path]) -> Any:
    """Return the pod of a RayCluster's head."""
    return of_kind(files, "RayCluster")["spec"]["headGroupSpec"]["template"]["spec"]


def pods() -> list[Any]:
    return [head(COORDINATOR), head(SILO), of_kind(SILO, "Pod")["spec"]]


def script(files: list[Path]) -> list[str]:
    """Return the lines of the shell script that a head runs."""
    container = head(files)["containers"][0]
    assert container["command"] == ["bash", "-c"] and len(container["args"]) == 1
    return [line.strip() for line in container["args"][0].strip().splitlines()]


def environment(pod: Any) -> dict[str, str]:
    return {one["name"]: one["value"] for one in pod["containers"][0]["env"]}


def mounts(pod: Any) -> dict[str, Any]:
    """Return a container's mounts by path, each with its volume."""
    volumes = {one["name"]: one for one in pod["volumes"]}
    return {
        one["mountPath"]: volumes[one["name"]] | one for one in pod["containers"][0]["volumeMounts"]
    }


@pytest.mark.parametrize(
    "files, namespace", [(COORDINATOR, "blindsum-coordinator"), (SILO, "blindsum-silo")]
)
def test_every_manifest_is_valid_for_its_kind(files: list[Path], namespace: str) -> None:
    for one in documents(files):
        require_valid(one)
        where = one["metadata"].get("namespace", one["metadata"]["name"])
        assert where == namespace
    labels = of_kind(files, "Namespace")["metadata"]["labels"]
    assert labels == {"pod-security.kubernetes.io/enforce": "restricted"}


def test_pods_have_no_more_rights_than_they_need() -> None:
    for pod in pods():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"limits", "requests"} == set(container["resources"])


def test_ray_needs_a_token_and_its_dashboard_listens_on_loopback() -> None:
    (version,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    for files in (COORDINATOR, SILO):
        cluster = of_kind(files, "RayCluster")
        assert cluster["spec"]["authOptions"] == {"mode": "token", "secretName": "blindsum-ray"}
        assert cluster["spec"]["headGroupSpec"]["rayStartParams"] == {"dashboard-host": "127.0.0.1"}
        assert cluster["spec"]["rayVersion"] == version
        assert "workerGroupSpecs" not in cluster["spec"]
    assert not [one for one in documents(COORDINATOR + SILO) if one["kind"] == "Secret"]
    assert README.count("secret generic blindsum-ray") == 2


def test_the_image_is_of_this_version() -> None:
    found = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    images = {pod["containers"][0]["image"] for pod in pods()}
    assert found and images == {f"blindsum:{found[1]}"}


def test_silos_reach_one_port_of_the_coordinator_and_nothing_else() -> None:
    policy = of_kind(COORDINATOR, "NetworkPolicy")["spec"]
    assert policy == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"ports": [{"port": 8443, "protocol": "TCP"}]}],
    }
    (container,) = head(COORDINATOR)["containers"]
    assert container["ports"] == [{"containerPort": 8443, "name": "silos"}]
    assert container["readinessProbe"] == {"tcpSocket": {"port": "silos"}}
    service = of_kind(COORDINATOR, "Service")["spec"]
    (port,) = service["ports"]
    assert (port["port"], port["targetPort"], port["protocol"]) == (443, "silos", "TCP")
    name = of_kind(COORDINATOR, "RayCluster")["metadata"]["name"]
    assert service["selector"] == {"ray.io/cluster": name, "ray.io/node-type": "head"}
    assert environment(head(COORDINATOR))["URL"].endswith(":443")


def test_nobody_reaches_a_silo_and_it_reaches_names_and_the_coordinator() -> None:
    policy = of_kind(SILO, "NetworkPolicy")["spec"]
    assert policy["podSelector"] == {} and policy["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy
    names, coordinator = policy["egress"]
    (dns,) = names["to"]
    assert dns["podSelector"]["matchLabels"] == {"k8s-app": "kube-dns"}
    assert {one["port"] for one in names["ports"]} == {53}
    assert list(coordinator["to"][0]) == ["ipBlock"] and len(coordinator["to"]) == 1
    assert coordinator["to"][0]["ipBlock"]["cidr"].endswith("/32")
    service = of_kind(COORDINATOR, "Service")["spec"]
    assert coordinator["ports"] == [{"port": service["ports"][0]["port"], "protocol": "TCP"}]
    # Nothing offers the pods to others either; KubeRay's own service ends at the policy.
    assert not [one for one in documents(SILO) if one["kind"] in ("Service", "Ingress")]


@pytest.mark.parametrize("files", [COORDINATOR, SILO])
def test_a_head_starts_ray_and_then_is_blindsum(files: list[Path]) -> None:
    annotations = of_kind(files, "RayCluster")["metadata"]["annotations"]
    assert annotations == {"ray.io/overwrite-container-cmd": "true"}
    lines = script(files)
    assert lines[0] == "set -e"
    assert lines[-3:-1] == [
        "$KUBERAY_GEN_RAY_START_CMD &",
        "until ray health-check 2> /dev/null; do sleep 1; done",
    ]
    assert lines[-1].startswith("exec blindsum ")


def test_the_coordinator_serves_the_folder_that_it_made() -> None:
    (made, init), (served, serve) = map(parsed, blindsum_commands("\n".join(script(COORDINATOR))))
    assert (made, served) == ("coordinator init", "coordinator serve")
    assert init["url"] == "$URL" and init["listen"] == ["0.0.0.0:8443"] and init["ray"] == "auto"
    assert init["folder"] is serve["folder"] is None
    home = environment(head(COORDINATOR))["BLINDSUM_HOME"]
    assert f"if ! [ -e {home}/coordinator/coordinator.yaml ]; then" in script(COORDINATOR)
    (claim,) = [
        one["metadata"]["name"]
        for one in documents(COORDINATOR)
        if one["kind"] == "PersistentVolumeClaim"
    ]
    assert mounts(head(COORDINATOR))[home]["persistentVolumeClaim"] == {"claimName": claim}
    assert f"{home}/coordinator/proposer.token" in README


def test_a_silo_finds_its_owners_file_its_table_and_its_state() -> None:
    ((served, serve),) = map(parsed, blindsum_commands("\n".join(script(SILO))))
    assert served == "silo serve" and serve["address"] == "auto" and serve["page"] is True
    limits = head(SILO)["containers"][0]["resources"]["limits"]
    assert str(serve["cores"]) == limits["cpu"]
    # Commands that people type in the pod find the file without --file.
    assert serve["file"] == places()[0]
    owner = OwnerFile.model_validate(yaml.safe_load((FOLDER / "owner.yaml").read_text()))
    claims = {
        one["metadata"]["name"] for one in documents(SILO) if one["kind"] == "PersistentVolumeClaim"
    }
    for pod, loads in ((head(SILO), False), (of_kind(SILO, "Pod")["spec"], True)):
        there = mounts(pod)
        # A whole secret would be a folder of links, which `blindsum.platform.job.owner` refuses.
        file = there[str(places()[0])]
        assert file["subPath"] == "silo.yaml" and file["readOnly"] is True
        assert file["secret"]["secretName"] == "owner"
        assert file["secret"]["defaultMode"] & 0o022 == 0
        used = {
            one["persistentVolumeClaim"]["claimName"]
            for one in there.values()
            if "persistentVolumeClaim" in one
        }
        assert used == claims == {"data", "state"}
        # Below the volume's top, which the group can write.
        assert Path(owner.state).parent == Path("/state") and "/state" in there
        assert {str(Path(one.path).parent) for one in owner.datasets.values()} == {"/data"}
        assert there["/data"].get("readOnly", False) is not loads
    assert environment(head(SILO))["BLINDSUM_HOME"] == "/state"
    assert owner.approved_jobs_only and owner.coordinator is None


def test_the_commands_in_the_walk_through_exist() -> None:
    named = {parsed(one)[0] for one in blindsum_commands(README)}
    assert named == {
        "invite",
        "coordinator serve",
        "coordinator status",
        "silo join",
        "silo serve",
        "silo status",
        "silo jobs",
        "silo show",
        "silo approve",
    }
    for file in re.findall(r"infra/\S+\.yaml", README):
        assert (ROOT / file).is_file()
    for file in re.findall(r"^\| `(\S+)` \|", README, re.MULTILINE):
        assert (FOLDER / file).is_file()


def test_a_command_with_a_wrong_flag_is_detected() -> None:
    for wrong in ("silo serve --files x", "coordinator init", "silo begin", "invite"):
        with pytest.raises(Exception, match=r"(?i)no such|missing"):
            parsed(wrong.split())
