"""`infra/k8s` says what our code and settings say, and what the cluster's schemas allow. A cluster is not needed.

Libraries: kubernetes-validate (the schemas), click.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import kustomized
import pytest
import yaml

from sluice.adapters.telemetry import METRICS
from sluice.cli import COMMANDS, sluice
from sluice.domain.lifecycle import check_schedule
from sluice.settings import Settings
from training.lifecycle_plan import load_plan

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operations.md").read_text()
VERSIONS = ("1.31", kubernetes_validate.latest_version())
COMPONENT = "app.kubernetes.io/component"
OURS = {
    "topics", "process", "analyze", "features", "resolve", "route", "dashboard", "drift", "lifecycle", "retrain",
}  # fmt: skip
ENDING = {"topics", "retrain"}
"""They end by themselves, and tell nobody how they are."""
UNITS = {"Mi": 2**20, "Gi": 2**30}
Object = dict[str, Any]


@pytest.fixture(scope="module", params=["base", "production", "local"])
def objects(request: pytest.FixtureRequest) -> list[Object]:
    if request.param == "base":
        return kustomized.base()
    if not kustomized.builder():
        pytest.skip("overlays need kustomize, or kubectl, which has it")
    return kustomized.built(request.param)


def of_kind(objects: list[Object], *kinds: str) -> dict[str, Object]:
    return {one["metadata"]["name"]: one for one in objects if one["kind"] in kinds}


def pods(objects: list[Object]) -> dict[str, Object]:
    """Component → pod template, of ours."""
    found = of_kind(objects, *kustomized.WORKLOADS)
    return {name: kustomized.holder(one)["template"] for name, one in found.items() if name in OURS}


def container(pod: Object) -> Object:
    (found,) = pod["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def ports(pod: Object) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container(pod).get("ports", [])}


def settings(objects: list[Object]) -> dict[str, str]:
    (config,) = (one["data"] for one in of_kind(objects, "ConfigMap").values() if "SLUICE_KAFKA" in one["data"])
    assert isinstance(config, dict)
    return config


def lives(objects: list[Object]) -> list[Object]:
    """The ConfigMaps that say how models are led through their lives."""
    return [one for one in of_kind(objects, "ConfigMap").values() if "films.yaml" in one["data"]]


def chosen(selector: Object, objects: list[Object]) -> set[str]:
    """Names of the workloads whose pods a selector selects."""
    labels = {
        name: kustomized.holder(one)["template"]["metadata"]["labels"]
        for name, one in of_kind(objects, *kustomized.WORKLOADS).items()
    }
    wanted = [(key, [value]) for key, value in selector.get("matchLabels", {}).items()]
    wanted += [(rule["key"], rule["values"]) for rule in selector.get("matchExpressions", [])]
    return {name for name, own in labels.items() if all(own.get(key) in values for key, values in wanted)}


def every(found: Any, key: str) -> Iterator[Any]:
    """All values of `key`, however deep."""
    if isinstance(found, dict):
        for name, value in found.items():
            if name == key:
                yield value
            yield from every(value, key)
    elif isinstance(found, list):
        for value in found:
            yield from every(value, key)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_cluster_would_take_every_object(objects: list[Object], version: str) -> None:
    for one in objects:
        kubernetes_validate.validate(one, version, strict=True)


def test_all_files_are_used() -> None:
    for folder in ("base", "production", "local"):
        (kustomization,) = kustomized.documents(kustomized.FOLDER / folder / "kustomization.yaml")
        named = set(kustomization["resources"])
        for key in ("patches", "replacements"):
            named |= {one.get("path") for one in kustomization.get(key, [])}
        named |= {name for one in kustomization["configMapGenerator"] for name in one.get("files", [])}
        there = {path.name for path in (kustomized.FOLDER / folder).glob("*.yaml")} - {"kustomization.yaml"}
        assert {name for name in named if name and not name.startswith("..")} == there, folder


@pytest.mark.skipif(not kustomized.builder(), reason="needs kustomize, or kubectl, which has it")
def test_what_these_tests_put_together_is_what_kustomize_builds() -> None:
    ours, theirs = pods(kustomized.base()), pods(kustomized.built("base"))
    assert ours.keys() == theirs.keys() == OURS
    for name, pod in ours.items():
        expected, found = container(pod), container(theirs[name])
        assert found.pop("image").startswith("sluice:") and expected.pop("image") == "sluice"
        assert found.pop("envFrom")[0]["configMapRef"]["name"].startswith("sluice-") and expected.pop("envFrom")
        for each in (expected, found):
            each["env"].sort(key=lambda one: one["name"])
            each["volumeMounts"].sort(key=lambda one: one["mountPath"])
        assert found == expected, name


@pytest.mark.parametrize("name", sorted(OURS))
def test_commands_exist_with_their_options(name: str) -> None:
    words = list(container(pods(kustomized.base())[name])["args"])
    assert words[0] in COMMANDS
    command: click.Command = sluice
    context = click.Context(sluice)
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, name
        command = found
    command.make_context(name, words)


def test_ports_are_those_the_services_listen_on(objects: list[Object]) -> None:
    found = pods(objects)
    for name in ("route", "dashboard"):
        command = sluice.get_command(click.Context(sluice), name)
        assert command is not None
        default = next(parameter.default for parameter in command.params if parameter.name == "port")
        assert ports(found[name])["http"] == default, name
    metrics = int(settings(objects)["SLUICE_METRICS"].rpartition(":")[2])
    for name, pod in found.items():
        assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(metrics)
        if name not in ENDING:
            assert ports(pod)["metrics"] == metrics, name
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert container(pod)[probe]["httpGet"]["port"] in ports(pod), name


def test_settings_are_ones_we_read(objects: list[Object]) -> None:
    known = {f"SLUICE_{field.name.upper()}" for field in dataclasses.fields(Settings)}
    known |= set(re.findall(r"^\| `(SLUICE_\w+)`", PAGE, re.MULTILINE))
    given = set(settings(objects))
    for pod in pods(objects).values():
        given |= {one["name"] for one in container(pod)["env"]}
        assert len(container(pod)["envFrom"]) == 1
    assert given <= known


def test_secrets_are_referred_to_and_nowhere_written(objects: list[Object]) -> None:
    assert not of_kind(objects, "Secret")
    references = list(every(objects, "secretKeyRef"))
    assert {one["name"] for one in references} == {"sluice"}
    documented = set(re.findall(r"^\| `([\w-]+)` of secret `sluice`", PAGE, re.MULTILINE))
    assert {one["key"] for one in references} == documented
    for value in [*settings(objects).values(), *every(objects, "value")]:
        assert not re.search(r"password|secret|token|://[^/]*:[^/]*@", str(value), re.IGNORECASE), value


def test_names_that_are_referred_to_exist(objects: list[Object]) -> None:
    config = set(of_kind(objects, "ConfigMap"))
    assert {one["name"] for key in ("configMapRef", "configMap") for one in every(objects, key)} == config
    workloads = of_kind(objects, *kustomized.WORKLOADS)
    for one in of_kind(objects, "HorizontalPodAutoscaler").values():
        target = one["spec"]["scaleTargetRef"]
        assert workloads[target["name"]]["kind"] == target["kind"]
        assert "replicas" not in workloads[target["name"]]["spec"], "the autoscaler's business"
    for name, one in of_kind(objects, "StatefulSet").items():
        assert one["spec"]["serviceName"] in of_kind(objects, "Service"), name
    for name, pod in pods(objects).items():
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        claims = every(workloads[name]["spec"].get("volumeClaimTemplates", []), "metadata")
        volumes |= {claim["name"] for claim in claims}
        assert {mount["name"] for mount in container(pod)["volumeMounts"]} == volumes, name


def test_selectors_select(objects: list[Object]) -> None:
    workloads = of_kind(objects, *kustomized.WORKLOADS)
    for name, one in of_kind(objects, "Deployment", "StatefulSet").items():
        assert chosen(one["spec"]["selector"], objects) == {name}
    for name, service in of_kind(objects, "Service").items():
        (target,) = chosen({"matchLabels": service["spec"]["selector"]}, objects)
        pod = workloads[target]["spec"]["template"]
        for port in service["spec"]["ports"]:
            assert ports(pod)[port["targetPort"]] == port["port"], name
    for name, budget in of_kind(objects, "PodDisruptionBudget").items():
        assert chosen(budget["spec"]["selector"], objects) == {name}
    for constraint in every(list(workloads.values()), "topologySpreadConstraints"):
        assert all(len(chosen(one["labelSelector"], objects)) == 1 for one in constraint)


def test_what_must_be_one_is_one(objects: list[Object]) -> None:
    found = of_kind(objects, "Deployment")
    for name in ("features", "drift", "lifecycle"):
        assert found[name]["spec"]["strategy"] == {"type": "Recreate"}
    for name in ("features", "analyze", "drift", "lifecycle"):
        assert found[name]["spec"]["replicas"] == 1
        assert name not in of_kind(objects, "PodDisruptionBudget"), "it would block the drain of a node"


def test_pods_have_nobodys_rights(objects: list[Object]) -> None:
    for one in of_kind(objects, *kustomized.WORKLOADS).values():
        pod = kustomized.holder(one)["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for each in pod["containers"]:
            rights = each["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False and rights["capabilities"] == {"drop": ["ALL"]}
            assert rights.get("readOnlyRootFilesystem") or each["name"] == "kafka"
            assert {"requests", "limits"} <= each["resources"].keys()
    dockerfile = (ROOT / "infra/docker/Dockerfile").read_text()
    for name, template in pods(objects).items():
        assert f"--uid {template['spec']['securityContext']['runAsUser']} " in dockerfile, name


def test_nothing_flows_that_no_policy_names(objects: list[Object]) -> None:
    policies = of_kind(objects, "NetworkPolicy")
    assert policies["nothing"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert chosen(policies["servers"]["spec"]["podSelector"], objects) == OURS
    assert chosen(policies["metrics"]["spec"]["podSelector"], objects) == OURS
    assert chosen(policies["models"]["spec"]["podSelector"], objects) == {"route", "drift", "lifecycle", "retrain"}
    for name in ("route", "dashboard"):
        policy = policies[name]["spec"]
        assert chosen(policy["podSelector"], objects) == {name}
        assert [port["port"] for port in every(policy["ingress"], "ports") for port in port] == [
            ports(pods(objects)[name])["http"]
        ]
    egress = [
        port for name in ("servers", "models") for rule in policies[name]["spec"]["egress"] for port in rule["ports"]
    ]
    reached = {number for port in egress for number in range(port["port"], port.get("endPort", port["port"]) + 1)}
    addresses = [settings(objects)["SLUICE_KAFKA"], settings(objects)["SLUICE_MLFLOW"]]
    assert {int(address.rpartition(":")[2]) for address in addresses} <= reached


def test_processors_scale_to_the_partitions_by_a_metric_that_they_export() -> None:
    objects = kustomized.base()
    scaler = of_kind(objects, "HorizontalPodAutoscaler")["process"]["spec"]
    assert scaler["maxReplicas"] == int(settings(objects)["SLUICE_PARTITIONS"])
    (metric,) = [one["external"]["metric"] for one in scaler["metrics"] if one["type"] == "External"]
    described = METRICS[metric["name"]]
    assert "process" in described.services
    assert metric["selector"]["matchLabels"].keys() <= set(described.labels)
    (rule,) = yaml.safe_load((kustomized.FOLDER / "prometheus-adapter.yaml").read_text())["rules"]["external"]
    assert rule["name"]["as"] == metric["name"] and rule["seriesQuery"].startswith(metric["name"] + "{")
    assert set(re.findall(r"max by \((.*?)\)", rule["metricsQuery"])[0].split(", ")) == set(described.labels)


def test_a_processor_at_its_memory_limit_is_not_killed() -> None:
    objects = kustomized.base()
    limit = container(pods(objects)["process"])["resources"]["limits"]["memory"]
    found = re.search(r"^\| a waiting click \| ([\d,]+) \|", PAGE, re.MULTILINE)
    assert found
    held = int(settings(objects)["SLUICE_MAX_HELD"]) * int(found[1].replace(",", ""))
    assert held + 400 * UNITS["Mi"] <= int(limit[:-2]) * UNITS[limit[-2:]]


def test_the_spool_fits_its_disk() -> None:
    (route,) = (one for one in kustomized.base() if one["kind"] == "StatefulSet")
    words = route["spec"]["template"]["spec"]["containers"][0]["args"]
    (size,) = every(route["spec"]["volumeClaimTemplates"], "storage")
    assert int(words[words.index("--spool-mb") + 1]) * UNITS["Mi"] < int(size[:-2]) * UNITS[size[-2:]]


def test_prometheus_finds_the_pods_as_the_page_says() -> None:
    """Rules know a service by its job: the component, as in compose the name of the service."""
    (block,) = re.findall(r"```yaml\n(- job_name: sluice\n.*?)```", PAGE, re.DOTALL)
    (job,) = yaml.safe_load(block)
    rules = {rule["source_labels"][0].removeprefix("__meta_kubernetes_"): rule for rule in job["relabel_configs"]}
    objects = kustomized.base()
    assert rules["pod_container_port_name"]["regex"] in ports(pods(objects)["process"])
    assert rules["pod_label_" + re.sub(r"\W", "_", COMPONENT)]["target_label"] == "job"
    compose = yaml.safe_load((ROOT / "infra/prometheus/prometheus.yml").read_text())
    jobs = {one["job_name"] for one in compose["scrape_configs"]}
    assert jobs >= OURS - ENDING


def test_a_training_fits_the_memory_of_its_pod(objects: list[Object]) -> None:
    found = pods(objects)
    (plan,) = (yaml.safe_load(one["data"]["films.yaml"]) for one in lives(objects))
    words = container(found["retrain"])["args"]
    for name, taken in (
        ("lifecycle", plan["training"]["memory_mb"]),
        ("retrain", int(words[words.index("--memory") + 1])),
    ):
        limit = container(found[name])["resources"]["limits"]["memory"]
        assert taken * UNITS["Mi"] + 512 * UNITS["Mi"] <= int(limit[:-2]) * UNITS[limit[-2:]], name


def test_one_model_is_watched_trained_and_led(objects: list[Object], tmp_path: Path) -> None:
    found = pods(objects)
    (config,) = lives(objects)
    (tmp_path / "films.yaml").write_text(config["data"]["films.yaml"])
    plan = load_plan(tmp_path / "films.yaml")
    model = f"{plan.model}@{plan.alias}"
    assert container(found["drift"])["args"][1] == container(found["retrain"])["args"][1] == model
    (volume,) = (one for one in found["lifecycle"]["spec"]["volumes"] if "configMap" in one)
    (place,) = (one for one in container(found["lifecycle"])["volumeMounts"] if one["name"] == volume["name"])
    assert container(found["lifecycle"])["args"] == ["lifecycle", "run", f"{place['mountPath']}/films.yaml"]
    assert config["data"]["films.yaml"] == (ROOT / "infra/docker/films.yaml").read_text()


@pytest.mark.skipif(not kustomized.builder(), reason="needs kustomize, or kubectl, which has it")
def test_every_pod_in_production_knows_the_authority_of_kafka() -> None:
    for name, pod in pods(kustomized.built("production")).items():
        places = {mount["name"]: mount["mountPath"] for mount in container(pod)["volumeMounts"]}
        assert places["kafka-authority"] == "/etc/sluice/kafka", name


def test_trainings_do_not_pile_up(objects: list[Object]) -> None:
    """A training that is late, hangs, fails or is asked for wrongly ends, and none begins beside another."""
    retrain = of_kind(objects, "CronJob")["retrain"]["spec"]
    assert retrain["concurrencyPolicy"] == "Forbid" and retrain["startingDeadlineSeconds"] > 10
    job, words = retrain["jobTemplate"]["spec"], container(pods(objects)["retrain"])["args"]
    tries = (job["backoffLimit"] + 1) * int(words[words.index("--seconds") + 1])
    assert job["activeDeadlineSeconds"] > tries
    assert job["template"]["spec"]["restartPolicy"] == "Never", "else no rule of podFailurePolicy counts"
    assert {
        rule["action"]: rule["onExitCodes"]["values"]
        for rule in job["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    } == {"FailJob": [2]}
    check_schedule(retrain["schedule"])
