"""Kubernetes' and KubeRay's schemas for manifests, and what network policies allow."""

from __future__ import annotations

import functools
import json
import lzma
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

KUBERAY = Path(__file__).parent / "schemas/kuberay-1.7.0.json.xz"
KUBERNETES = "1.30"


def documents(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Yield the manifests in files."""
    for path in files:
        yield from yaml.safe_load_all(path.read_text())


def require_valid(manifest: dict[str, Any]) -> None:
    """Raise an error if the API server or KubeRay would not take up all of a manifest."""
    if manifest["apiVersion"] == "ray.io/v1":
        kuberay()[manifest["kind"]].validate(manifest)
    else:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@functools.cache
def kuberay() -> dict[str, Any]:
    """Return KubeRay's validators by kind. Built once: each schema has a megabyte."""
    schemas = json.loads(lzma.decompress(KUBERAY.read_bytes()))
    for schema in schemas.values():
        schema["properties"]["metadata"] = {"x-kubernetes-preserve-unknown-fields": True}
    return {kind: jsonschema.Draft7Validator(closed(schema)) for kind, schema in schemas.items()}


def closed(schema: Any) -> Any:
    """Return the schema with unknown names as errors, since the API server drops them silently."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if made.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    if isinstance(made.get("properties"), dict) and not made.get(
        "x-kubernetes-preserve-unknown-fields"
    ):
        made.setdefault("additionalProperties", False)
    return made


def allowed(
    policies: list[dict[str, Any]], source: dict[str, str], target: dict[str, str]
) -> set[int]:
    """Return the TCP ports on which one pod of the namespace may connect to another, by labels; for
    a range, its first port."""

    def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
        return selector.get("matchLabels", {}).items() <= labels.items()

    def ports(of: dict[str, str], to: dict[str, str], way: str, peers: str) -> set[int]:
        found: set[int] = set()
        for policy in policies:
            if selects(policy["spec"]["podSelector"], of):
                for rule in policy["spec"].get(way, []):
                    if any(
                        "namespaceSelector" not in p and selects(p["podSelector"], to)
                        for p in rule[peers]
                    ):
                        found |= {p["port"] for p in rule["ports"] if p["protocol"] == "TCP"}
        return found

    return ports(source, target, "egress", "to") & ports(target, source, "ingress", "from")
