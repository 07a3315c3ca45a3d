"""The files of cluster/: each valid for what reads it, no metric named that is not there."""

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from paths import ROOT, shared_folder

from netdiff_ray.distributed.metrics import METRICS

CLUSTER = ROOT / "cluster"
KUBERAY = {"raycluster": "rayclusters", "rayjob": "rayjobs", "rayservice": "rayservices"}
DASHBOARDS = sorted((CLUSTER / "grafana").glob("*.json"))


def parsed(name):
    """The content of a YAML file of cluster/."""
    return yaml.safe_load((CLUSTER / name).read_text())


def kuberay_cluster(name):
    """The RayCluster in a KubeRay file, whatever it is wrapped in."""
    spec = parsed(f"{name}.yaml")["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


@pytest.mark.parametrize("name", sorted(KUBERAY))
def test_kuberay_files_are_valid(name):
    from jsonschema import Draft202012Validator

    definition = yaml.safe_load(
        (shared_folder("schemas") / f"ray.io_{KUBERAY[name]}.yaml").read_text()
    )
    (schema,) = (
        version["schema"]["openAPIV3Schema"]
        for version in definition["spec"]["versions"]
        if version["name"] == "v1"
    )
    schema = closed(schema)
    content = parsed(f"{name}.yaml")
    assert content["apiVersion"] == "ray.io/v1"
    faults = [
        f"{list(e.path)}: {e.message}" for e in Draft202012Validator(schema).iter_errors(content)
    ]
    assert faults == []


def closed(schema):
    """The schema, refusing fields that it does not name, which Kubernetes would drop."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema = {"additionalProperties": False, **schema}
    return {key: closed(value) for key, value in schema.items()}


def test_kuberay_files_describe_the_same_nodes():
    groups = {}
    for name in KUBERAY:
        cluster = kuberay_cluster(name)
        groups[name] = json.loads(json.dumps(cluster))
        for group in groups[name]["workerGroupSpecs"]:
            group.pop("minReplicas")
    assert groups["raycluster"] == groups["rayjob"] == groups["rayservice"]


@pytest.mark.parametrize("name", sorted(KUBERAY))
def test_ray_scales_kuberay_groups_from_nothing_spot_first(name):
    from ray.autoscaler._private.kuberay.autoscaling_config import (
        _derive_autoscaling_config_from_ray_cr,
    )

    resource = {
        "metadata": {"name": "netdiff", "namespace": "default"},
        "spec": json.loads(json.dumps(kuberay_cluster(name))),
    }
    kinds = _derive_autoscaling_config_from_ray_cr(resource)["available_node_types"]
    assert kinds["headgroup"]["resources"]["CPU"] == 0
    for kind in ("cpu", "gpu"):
        spot, on_demand = kinds[f"{kind}-spot"], kinds[f"{kind}-on-demand"]
        assert spot["resources"] == on_demand["resources"]
        assert spot["priority"] > on_demand["priority"]
        assert spot["min_workers"] == 0
        assert spot["resources"].get("GPU", 0) == (kind == "gpu")
    assert kinds["gpu-on-demand"]["min_workers"] == 0


def test_the_ray_version_is_the_tested_one():
    constraints = (ROOT / "constraints.txt").read_text()
    version = re.search(r"^ray==(.*)$", constraints, re.MULTILINE)[1]
    assert {kuberay_cluster(name)["rayVersion"] for name in KUBERAY} == {version}
    assert f"ARG RAY={version}\n" in (CLUSTER / "Dockerfile").read_text()


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_ray_accepts_the_launcher_files(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(parsed(f"{name}.yaml"))
    validate_config(config)
    kinds = config["available_node_types"]
    head = kinds[config["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0
    assert "--num-cpus=0" in " ".join(config["head_start_ray_commands"])
    for kind in ("cpu", "gpu"):
        spot, on_demand = kinds[f"{kind}_spot"], kinds[f"{kind}_on_demand"]
        assert spot["resources"] == on_demand["resources"]
        assert spot["priority"] > on_demand["priority"]
        assert spot["min_workers"] == on_demand["min_workers"] == 0
        assert is_spot(spot["node_config"])
        assert not is_spot(on_demand["node_config"])
    assert "cpu" in config["docker"]["image"]
    assert "gpu" in kinds["gpu_spot"]["docker"]["worker_image"]


def is_spot(node_config):
    """Whether EC2 or Compute Engine is asked for a spot machine."""
    aws = node_config.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    return aws or node_config.get("scheduling", {}).get("provisioningModel") == "SPOT"


def test_the_serve_config_is_what_serve_reads_and_the_ray_service_holds():
    from ray.serve.schema import ServeDeploySchema

    config = parsed("serve.yaml")
    assert yaml.safe_load(parsed("rayservice.yaml")["spec"]["serveConfigV2"]) == config
    (application,) = ServeDeploySchema(**config).applications
    assert application.import_path == "netdiff_ray.distributed.serve:build"


def test_what_the_image_copies_is_there():
    ignored = (ROOT / ".dockerignore").read_text().split()
    for line in (CLUSTER / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY"):
            for source in line.split()[2:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignored


def promtool(*arguments):
    """What promtool prints; the test is skipped where it is missing."""
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool (the package prometheus)")
    run = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_prometheus_accepts_its_files():
    promtool("check", "config", str(CLUSTER / "prometheus.yml"))
    assert "SUCCESS" in promtool("check", "rules", "--lint-fatal", str(CLUSTER / "rules.yml"))


def panels(path):
    """(title, expression) of each query of each panel of a dashboard."""
    for panel in json.loads(Path(path).read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def alerts():
    """(name, expression) of each alert."""
    for group in parsed("rules.yml")["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def named_by(expression):
    """The metrics that an expression names."""
    return set(re.findall(r"\b(?:ray|autoscaler)_\w+", expression))


def exported_names():
    """Names under which Prometheus finds the project's metrics."""
    for metric in METRICS:
        name = f"ray_{metric.name}"
        yield from {
            "counter": [f"{name}_total"],
            "gauge": [name],
            "histogram": [f"{name}_bucket", f"{name}_sum", f"{name}_count"],
        }[metric.kind]


def test_every_metric_that_is_named_exists():
    import ray.dashboard.modules.metrics.dashboards as rays_own

    sources = [p.read_text() for p in Path(rays_own.__file__).parent.glob("*.py")]
    known = {name for source in sources for name in named_by(source)}
    known |= set(exported_names())
    expressions = [*alerts(), *(own for path in DASHBOARDS for own in panels(path))]
    assert len(expressions) > 40
    for where, expression in expressions:
        assert named_by(expression) <= known, where


def test_every_metric_is_shown_or_watched():
    shown = {name for path in DASHBOARDS for _, e in panels(path) for name in named_by(e)}
    for metric in METRICS:
        assert any(name.startswith(f"ray_{metric.name}") for name in shown), metric.name


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_can_be_provisioned(path):
    board = json.loads(path.read_text())
    assert board["uid"].startswith("netdiff-")
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["type"] == "row" or (panel["targets"] and panel["description"])
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(board)))
    assert used <= variables | {"__rate_interval", "__all"}


def test_no_metric_is_made_elsewhere():
    for path in (ROOT / "netdiff_ray").rglob("*.py"):
        modules = {
            node.module
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
        }
        if path.name != "metrics.py":
            assert "ray.util.metrics" not in modules, path
