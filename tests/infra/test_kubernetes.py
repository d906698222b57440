"""The manifests are valid under KubeRay's and Kubernetes' schemas, and consistent."""

import copy
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.infra.manifests import allowed, documents, require_valid

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([*(ROOT / "infra/kubernetes").glob("*.yaml"), ROOT / "infra/mlflow/kubernetes.yaml"])


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [one for one in documents(FILES) if one["kind"] == kind]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    (cluster,), (job,) = of_kind("RayCluster"), of_kind("RayJob")
    yield "head", cluster["spec"]["headGroupSpec"]["template"]["spec"]
    for group in cluster["spec"]["workerGroupSpecs"]:
        yield group["groupName"], group["template"]["spec"]
    yield "submitter", job["spec"]["submitterPodTemplate"]["spec"]
    for one in of_kind("Pod"):
        yield one["metadata"]["name"], one["spec"]
    for kind in ("StatefulSet", "Deployment"):
        for one in of_kind(kind):
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


def test_every_manifest_is_valid_for_its_kind() -> None:
    seen = set()
    for one in documents(FILES):
        seen.add(one["kind"])
        require_valid(one)
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "blindsum"
    assert seen >= {"RayCluster", "RayJob", "NetworkPolicy", "StatefulSet", "Deployment"}


def test_the_schemas_detect_errors() -> None:
    (cluster,) = of_kind("RayCluster")
    for change in (
        lambda c: c["spec"].update(authOption={"mode": "token"}),
        lambda c: c["spec"]["authOptions"].update(mode="on"),
        lambda c: c["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0].update(imag="x"),
        lambda c: c["spec"]["workerGroupSpecs"][0].update(replicas="one"),
        lambda c: c["spec"].pop("headGroupSpec"),
    ):
        broken = copy.deepcopy(cluster)
        change(broken)
        with pytest.raises(jsonschema.ValidationError):
            require_valid(broken)


def test_every_silo_has_its_own_node_table_and_state() -> None:
    (cluster,) = of_kind("RayCluster")
    claims = {one["metadata"]["name"] for one in of_kind("PersistentVolumeClaim")}
    for group in cluster["spec"]["workerGroupSpecs"]:
        name, pod = group["groupName"], group["template"]["spec"]
        # KubeRay puts the value into a shell command line, which leaves one word of JSON
        (said,) = shlex.split(group["rayStartParams"]["resources"])
        assert json.loads(said) == {f"silo:{name}": 1}
        assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (1, 1, 1)
        assert pod["nodeSelector"] == {"blindsum/silo": name}
        used = {
            v["persistentVolumeClaim"]["claimName"]
            for v in pod["volumes"]
            if "persistentVolumeClaim" in v
        }
        assert used == {f"data-{name}", f"state-{name}"} <= claims
        mounts = {m["name"]: m for m in pod["containers"][0]["volumeMounts"]}
        assert mounts["data"]["readOnly"] and mounts["data"]["mountPath"] == f"/data/{name}"
    head = cluster["spec"]["headGroupSpec"]
    assert "resources" not in head["rayStartParams"] and head["rayStartParams"]["num-cpus"] == "0"


def test_a_token_is_required_and_no_manifest_contains_a_secret() -> None:
    (cluster,) = of_kind("RayCluster")
    assert cluster["spec"]["authOptions"] == {"mode": "token", "secretName": "blindsum-ray"}
    assert not of_kind("Secret")
    for _, pod in pods():
        for container in pod["containers"]:
            for variable in container.get("env", []):
                secret = re.search("PASSWORD|TOKEN|SECRET|KEY", variable["name"])
                assert not secret or "secretKeyRef" in variable["valueFrom"]


def test_pods_have_no_more_rights_than_they_need() -> None:
    names = []
    for name, pod in pods():
        names.append(name)
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        # A group that owns volumes would get access to all files at every start of the pod, and
        # Blindsum refuses keys that a group can read.
        if "fsGroup" in pod["securityContext"]:
            assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"limits", "requests"} == set(container["resources"])
    assert names == [
        "head",
        "alder",
        "birch",
        "cedar",
        "submitter",
        "load-alder",
        "postgres",
        "mlflow",
    ]


def test_policies_allow_necessary_traffic_and_none_between_silos() -> None:
    policies = of_kind("NetworkPolicy")
    ray = {"ray.io/cluster": "blindsum"}
    head = ray | {"ray.io/node-type": "head"}
    alder = ray | {"ray.io/node-type": "worker", "ray.io/group": "alder"}
    birch = alder | {"ray.io/group": "birch"}
    submitter = {"ray.io/originated-from-crd": "RayJob"}
    between = {6380, 6381, 52365, 52366, 52367, 10002}
    assert allowed(policies, alder, head) == between | {6379}
    assert allowed(policies, head, alder) == between
    assert allowed(policies, alder, birch) == set()
    assert allowed(policies, submitter, head) == {8265}
    assert allowed(policies, head, {"app": "mlflow"}) == {5000}
    assert allowed(policies, {"app": "mlflow"}, {"app": "postgres"}) == {5432}
    for source in (alder, head, submitter, {"app": "other"}):
        assert allowed(policies, source, {"app": "postgres"}) == set()
    for source in (alder, submitter, {"app": "other"}):
        assert allowed(policies, source, {"app": "mlflow"}) == set()
    everything = [
        p for p in policies if p["spec"]["podSelector"] == {} and "ingress" not in p["spec"]
    ]
    assert any(set(p["spec"]["policyTypes"]) == {"Ingress", "Egress"} for p in everything)
    (cluster,) = of_kind("RayCluster")
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        told = group["rayStartParams"]
        fixed = {
            int(v)
            for k, v in told.items()
            if k.endswith("-port") and k not in ("max-worker-port", "metrics-export-port")
        }
        assert fixed == between


def test_the_container_file_copies_existing_files() -> None:
    text = (ROOT / "infra/container/Containerfile").read_text()
    rooms = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    named = {name for line in rooms for name in line.split()}
    assert all((ROOT / name).exists() for name in named)
    assert {"platform", "actors", "he", "pipelines", "infra", "src", "constraints.txt"} <= named
    images = {c["image"] for _, pod in pods() for c in pod["containers"]}
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version and images == {f"blindsum:{version[1]}", "postgres:15"}
    ray = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    (cluster,) = of_kind("RayCluster")
    assert ray and cluster["spec"]["rayVersion"] == ray[1]
    assert "USER 1000" in text and "://" not in text
