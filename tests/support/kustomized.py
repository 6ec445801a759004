"""The objects of `infra/k8s`: the base put together in plain Python, overlays by kustomize where it is installed.

Libraries: PyYAML; kustomize or kubectl as programs.
"""

from __future__ import annotations

import copy
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "infra/k8s"
MERGED = ("Deployment", "StatefulSet", "Job")
"""What pod.yaml is merged into"""
WORKLOADS = (*MERGED, "CronJob")
Object = dict[str, Any]


def documents(path: Path) -> list[Object]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def base() -> list[Object]:
    """As `kustomize build infra/k8s/base`, but for the namespace, the labels and the hash in the ConfigMap's name."""
    (kustomization,) = documents(FOLDER / "base/kustomization.yaml")
    (patch,) = kustomization["patches"]
    (common,) = documents(FOLDER / "base" / patch["path"])
    assert patch["target"]["kind"].split("|") == list(MERGED)
    found = [one for name in kustomization["resources"] for one in documents(FOLDER / "base" / name)]
    for one in found:
        if one["kind"] in WORKLOADS:
            around = holder(one)
            around["template"] = _merged(common["spec"]["template"], around["template"])
            around["template"]["metadata"]["labels"]["app.kubernetes.io/name"] = "sluice"
    return found + [_generated(one) for one in kustomization["configMapGenerator"]]


def holder(workload: Object) -> Object:
    """The mapping in which its pod stands, as `template`."""
    spec = workload["spec"]
    found = spec["jobTemplate"]["spec"] if workload["kind"] == "CronJob" else spec
    assert isinstance(found, dict)
    return found


def _generated(told: Object) -> Object:
    data = dict(literal.split("=", 1) for literal in told.get("literals", []))
    data |= {name: (FOLDER / "base" / name).read_text() for name in told.get("files", [])}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": told["name"]}, "data": data}


def builder() -> list[str]:
    """The command that builds an overlay; empty where there is none."""
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    return ["kubectl", "kustomize"] if shutil.which("kubectl") else []


@lru_cache
def built(name: str) -> list[Object]:
    done = subprocess.run([*builder(), str(FOLDER / name)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def _merged(under: Any, over: Any) -> Any:
    """Strategic merge of a pod: mappings by key, lists of things with names by name, other lists replaced."""
    if isinstance(under, dict) and isinstance(over, dict):
        result = copy.deepcopy(under)
        for key, value in over.items():
            result[key] = _merged(under[key], value) if key in under else value
        return result
    if isinstance(under, list) and isinstance(over, list) and all(isinstance(one, dict) for one in under + over):
        key = next(key for key in ("mountPath", "name", "containerPort") if key in (under + over)[0])
        named = {one[key]: one for one in over}
        both = [_merged(one, named.pop(one[key], one)) for one in under]
        return both + list(named.values())
    return over
