"""The files of cluster/: each valid for what reads it, no metric named that is not there."""

import ast
import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from paths import ROOT, shared_folder

from netdiff_ray.distributed.metrics import METRICS
from netdiff_ray.serving import slow_clients

CLUSTER = ROOT / "cluster"
KUBERNETES = CLUSTER / "kubernetes"
DEVICES = ("cpu", "gpu")
PARTS = ("cluster", "run", "endpoint")
OVERLAYS = [f"{device}/{part}" for device in DEVICES for part in PARTS]
DASHBOARDS = sorted((CLUSTER / "grafana").glob("*.json"))
OTHERS_METRICS = {"kube_job_failed", "kuberay_job_deployment_status"}
"""Metrics of kube-state-metrics and of KubeRay that rules name; a Ray alone has none of them."""


def parsed(name):
    """Return the content of a YAML file of cluster/."""
    return yaml.safe_load((CLUSTER / name).read_text())


def render(folder: Path) -> list[dict]:
    """Return what kustomize makes of a folder; the test is skipped where it is missing."""
    if shutil.which("kustomize"):
        command = ["kustomize", "build"]
    elif kubectl_knows_components():
        command = ["kubectl", "kustomize"]
    else:
        pytest.skip(
            "needs kustomize, or kubectl of 1.21 or later, which holds it; Debian 12 has 1.20, "
            "whose kustomize knows no components: `python3 .ci/kubectl.py FOLDER` gets a later one"
        )
    run = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return list(yaml.safe_load_all(run.stdout))


@functools.cache
def kubectl_knows_components() -> bool:
    """Return whether there is a kubectl, and its kustomize is of 3.7 or later."""
    if not shutil.which("kubectl"):
        return False
    command = ["kubectl", "version", "--client", "--output=yaml"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    version = re.search(r"kustomizeVersion: v(\d+)\.(\d+)", said)  # older ones do not say
    return version is not None and tuple(map(int, version.groups())) >= (3, 7)


@functools.cache
def rendered(overlay: str) -> dict[tuple[str, str], dict]:
    """Return the resources of an overlay, by kind and name."""
    resources = render(KUBERNETES / "overlays" / overlay)
    return {(r["kind"], r["metadata"]["name"]): r for r in resources}


def ray_resource(overlay: str) -> dict:
    """Return the RayCluster, RayJob or RayService of an overlay."""
    (resource,) = (r for r in rendered(overlay).values() if r["apiVersion"].startswith("ray.io/"))
    return resource


def ray_cluster(overlay: str) -> dict:
    """Return the spec of a RayCluster in an overlay, whatever it is wrapped in."""
    spec = ray_resource(overlay)["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def pods(content: object) -> Iterator[dict]:
    """Yield the spec of each pod in a resource."""
    if isinstance(content, dict):
        if "containers" in content:
            yield content
        for value in content.values():
            yield from pods(value)
    elif isinstance(content, list):
        for value in content:
            yield from pods(value)


def test_every_overlay_is_tried():
    folders = {path.parent for path in (KUBERNETES / "overlays").rglob("kustomization.yaml")}
    kinds = {yaml.safe_load((f / "kustomization.yaml").read_text())["kind"]: f for f in folders}
    assert set(kinds) == {"Kustomization", "Component"}
    names = {str(f.relative_to(KUBERNETES / "overlays")) for f in folders}
    assert names == {*OVERLAYS, *(f"{device}/settings" for device in DEVICES)}


def kuberay_faults(resource: dict) -> list[str]:
    """Return what the definition of a kind of KubeRay's refuses."""
    assert resource["apiVersion"] == "ray.io/v1"
    validator = kuberay_validator(resource["kind"])
    return [f"{list(e.path)}: {e.message}" for e in validator.iter_errors(resource)]


@functools.cache
def kuberay_validator(kind: str):
    """Return a validator of the closed definition of a kind of KubeRay's."""
    from jsonschema import Draft202012Validator

    path = shared_folder("schemas") / f"ray.io_{kind.lower()}s.yaml"
    definition = yaml.load(path.read_text(), yaml.CSafeLoader)  # 20,000 lines each
    (schema,) = (
        version["schema"]["openAPIV3Schema"]
        for version in definition["spec"]["versions"]
        if version["name"] == "v1"
    )
    return Draft202012Validator(closed(schema))


def closed(schema):
    """Return the schema, refusing fields that it does not name, which Kubernetes would drop."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema = {"additionalProperties": False, **schema}
    return {key: closed(value) for key, value in schema.items()}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kuberay_takes_the_overlays(overlay):
    resource = ray_resource(overlay)
    assert kuberay_faults(resource) == []
    # The definition still has them; the operator no longer reads them.
    assert not re.search(r"UnhealthySecondThreshold", json.dumps(resource))


def test_the_definitions_of_kuberay_refuse_what_they_do_not_know():
    resource = json.loads(json.dumps(ray_resource("cpu/cluster")))
    resource["spec"]["workerGroupSpecs"][0]["prioriti"] = 1
    (fault,) = kuberay_faults(resource)
    assert "prioriti" in fault


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_takes_the_overlays(overlay):
    import kubernetes_validate

    kinds = [r for r in rendered(overlay).values() if not r["apiVersion"].startswith("ray.io/")]
    assert {r["kind"] for r in kinds} >= {"ServiceAccount", "NetworkPolicy", "ConfigMap"}
    for resource in kinds:
        kubernetes_validate.validate(resource, "1.37", strict=True)


@pytest.mark.parametrize("name", ["examples/secret.yaml", "components/volume/claim.yaml"])
def test_kubernetes_takes_the_examples(name):
    import kubernetes_validate

    resource = yaml.safe_load((KUBERNETES / name).read_text())
    kubernetes_validate.validate(resource, "1.37", strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**resource, "speck": 1}, "1.37", strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_come_from_the_registry_of_the_settings(overlay):
    device = overlay.split("/")[0]
    settings = parsed(f"kubernetes/overlays/{device}/settings/kustomization.yaml")
    offered = {f"{image['newName']}:{image['newTag']}" for image in settings["images"]}
    used = {
        container["image"]
        for resource in rendered(overlay).values()
        for pod in pods(resource)
        for container in pod["containers"]
    }
    assert used == offered


@pytest.mark.parametrize("device", DEVICES)
def test_the_parts_describe_the_same_nodes(device):
    nodes = {}
    for part in PARTS:
        nodes[part] = json.loads(json.dumps(ray_cluster(f"{device}/{part}")))
        least = [group.pop("minReplicas") for group in nodes[part]["workerGroupSpecs"]]
        assert least == [int(part == "endpoint"), *[0] * (len(least) - 1)]
    assert nodes["cluster"] == nodes["run"] == nodes["endpoint"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_scales_kuberay_groups_from_nothing_spot_first(overlay):
    from ray.autoscaler._private.kuberay.autoscaling_config import (
        _derive_autoscaling_config_from_ray_cr,
    )

    resource = {
        "metadata": {"name": "netdiff", "namespace": "default"},
        "spec": json.loads(json.dumps(ray_cluster(overlay))),
    }
    kinds = _derive_autoscaling_config_from_ray_cr(resource)["available_node_types"]
    assert kinds["headgroup"]["resources"]["CPU"] == 0
    devices = ("cpu", "gpu") if overlay.startswith("gpu/") else ("cpu",)
    assert len(kinds) == 1 + 2 * len(devices)
    for kind in devices:
        spot, on_demand = kinds[f"{kind}-spot"], kinds[f"{kind}-on-demand"]
        assert spot["resources"] == on_demand["resources"]
        assert spot["priority"] > on_demand["priority"]
        least = int(overlay.endswith("/endpoint") and kind == "cpu")
        assert (spot["min_workers"], on_demand["min_workers"]) == (least, 0)
        assert spot["resources"].get("GPU", 0) == (kind == "gpu")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_confined(overlay):
    user = int(re.search(r"^USER (\d+):\1$", dockerfile(), re.MULTILINE)[1])
    resources = rendered(overlay)
    specs = [pod for resource in resources.values() for pod in pods(resource)]
    assert len(specs) >= 3
    for pod in specs:
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == context["runAsGroup"] == user
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert ("ServiceAccount", pod["serviceAccountName"]) in resources
        is_head = pod["containers"][0]["name"] == "ray-head"
        assert pod["automountServiceAccountToken"] is is_head
        for container in pod["containers"]:
            assert_confined(container, {volume["name"] for volume in pod["volumes"]})
    autoscaler = ray_cluster(overlay)["autoscalerOptions"]
    assert_confined(autoscaler, {"tmp"})


def assert_confined(container: dict, volumes: set[str]) -> None:
    """Assert that a container cannot become root, and writes to volumes alone."""
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert "/tmp" in mounts
    assert set(mounts.values()) <= volumes
    assert {"name": "HOME", "value": "/tmp"} in container["env"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ports_are_open_to_those_that_use_them(overlay):
    resources = rendered(overlay)
    nodes = resources["NetworkPolicy", "netdiff-nodes"]["spec"]
    assert nodes["policyTypes"] == ["Ingress", "Egress"]
    (head,) = (
        pod["containers"][0]
        for pod in pods(ray_cluster(overlay))
        if pod["containers"][0]["name"] == "ray-head"
    )
    ports = {port["name"]: port["containerPort"] for port in head["ports"]}
    opened = {}
    for rule in nodes["ingress"]:
        selector = rule["from"][0].get("namespaceSelector") or rule["from"][0]["podSelector"]
        labels = selector.get("matchLabels") or rule["from"][0]["podSelector"]["matchLabels"]
        opened[tuple(labels)] = {port["port"] for port in rule.get("ports", ())}
    agent = 52365
    assert opened == {
        ("ray.io/is-ray-node",): set(),  # all of them
        ("app.kubernetes.io/component", "app.kubernetes.io/name"): {ports["dashboard"]},
        ("app.kubernetes.io/name",): {ports["dashboard"], ports["serve"], agent},
        ("netdiff-endpoint",): {ports["serve"]},
        ("netdiff-metrics",): {
            ports["metrics"], ports["as-metrics"], ports["dash-metrics"],
        },
    }  # fmt: skip
    clients = resources["NetworkPolicy", "netdiff-clients"]["spec"]["podSelector"]["matchLabels"]
    for template in client_templates(overlay):
        assert template["metadata"]["labels"] == clients


def client_templates(overlay: str) -> list[dict]:
    """Return the templates of the pods that submit jobs."""
    resources = rendered(overlay)
    nightly = resources.get(("CronJob", "netdiff-nightly"))
    run = resources.get(("RayJob", "netdiff-run"))
    templates = [nightly["spec"]["jobTemplate"]["spec"]["template"]] if nightly else []
    return templates + ([run["spec"]["submitterPodTemplate"]] if run else [])


def arguments_of(script: str, settings: dict[str, str], folder: Path) -> list[str]:
    """Return the arguments with which a shell script calls `netdiff`."""
    command = folder / "netdiff"
    command.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$OUT"\n')
    command.chmod(0o755)
    out = folder / "arguments.txt"
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "OUT": str(out), **settings}
    subprocess.run(["bash", "-euc", script], env=environment, check=True)
    return out.read_text().splitlines()


@pytest.mark.parametrize("device", DEVICES)
def test_each_night_draws_a_dataset_of_its_day(device, tmp_path):
    resources = rendered(f"{device}/cluster")
    settings = resources["ConfigMap", "netdiff-settings"]["data"]
    spec = resources["CronJob", "netdiff-nightly"]["spec"]
    (container,) = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    begin = datetime.now(UTC)
    arguments = arguments_of(container["args"][0], settings, tmp_path)
    days = {f"{moment:%Y-%m-%d}" for moment in (begin, datetime.now(UTC))}

    submitted = parsed_arguments(arguments)
    # KubeRay calls the service of a cluster's head NAME-head-svc, the secret with its token NAME.
    assert submitted.address == "http://netdiff-head-svc:8265"
    assert ("RayCluster", "netdiff") in resources
    token = {"secretKeyRef": {"name": "netdiff", "key": "auth_token"}}
    assert {"name": "RAY_AUTH_TOKEN", "valueFrom": token} in container["env"]
    config = parsed_arguments(submitted.verb)
    day = config.target.rpartition("/")[2]
    assert day in days
    assert config.target == f"{settings['DATASETS']}/{day}"
    assert config.draw.seed == int(day.replace("-", ""))
    assert (config.adapter, config.flows) == (settings["ADAPTER"], int(settings["FLOWS"]))
    assert config.gpus_per_denoiser == (device == "gpu")
    # All tries are of one day: none begins after 2:00, nor goes on after 22:00.
    assert (spec["schedule"], spec["timeZone"]) == ("0 1 * * *", "Etc/UTC")
    last = 3600 + spec["startingDeadlineSeconds"]
    assert last + spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 86_400


def parsed_arguments(arguments: list[str]):
    """Return the configuration that `netdiff` makes of its arguments."""
    from netdiff_ray.cli import parsed

    return parsed(list(arguments))


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_draws_what_the_settings_say(device, tmp_path):
    resources = rendered(f"{device}/run")
    settings = resources["ConfigMap", "netdiff-settings"]["data"]
    spec = resources["RayJob", "netdiff-run"]["spec"]
    config = parsed_arguments(arguments_of(spec["entrypoint"], settings, tmp_path))
    assert config.target == f"{settings['DATASETS']}/run"
    assert (config.adapter, config.flows) == (settings["ADAPTER"], int(settings["FLOWS"]))
    assert config.address == "auto"
    assert config.gpus_per_denoiser == (device == "gpu")
    (container,) = spec["submitterPodTemplate"]["spec"]["containers"]
    assert container["envFrom"] == [{"configMapRef": {"name": "netdiff-settings"}}]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_volume_is_mounted_by_every_node(overlay, tmp_path):
    copy = shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    path = copy / "overlays" / overlay / "kustomization.yaml"
    path.write_text(
        path.read_text().replace("components:\n", "components:\n  - ../../../components/volume\n")
    )
    resources = render(path.parent)
    (claim,) = (r for r in resources if r["kind"] == "PersistentVolumeClaim")
    (resource,) = (r for r in resources if r["apiVersion"].startswith("ray.io/"))
    assert kuberay_faults(resource) == []
    nodes = [pod for pod in pods(resource) if pod["containers"][0]["name"] != "ray-job-submitter"]
    assert len(nodes) == (5 if overlay.startswith("gpu/") else 3)
    for pod in nodes:
        volume = {"claimName": claim["metadata"]["name"]}
        assert {"name": "data", "persistentVolumeClaim": volume} in pod["volumes"]
        assert {"name": "data", "mountPath": "/data"} in pod["containers"][0]["volumeMounts"]


def test_files_say_which_kuberay_they_need():
    heads = [
        "base/nodes.yaml", "components/cluster/raycluster.yaml", "components/run/rayjob.yaml",
        "components/endpoint/rayservice.yaml",
    ]  # fmt: skip
    for name in heads:
        head = (KUBERNETES / name).read_text().partition("apiVersion")[0]
        assert "KubeRay 1.7" in head.replace("\n#", ""), name
    assert "KubeRay 1.7" in (CLUSTER / "README.md").read_text()


def test_the_ray_version_is_the_tested_one():
    constraints = (ROOT / "constraints.txt").read_text()
    version = re.search(r"^ray==(.*)$", constraints, re.MULTILINE)[1]
    assert parsed("kubernetes/base/nodes.yaml")["spec"]["rayVersion"] == version
    assert "--constraint constraints.txt" in dockerfile()


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
    """Return whether EC2 or Compute Engine is requested to give a spot machine."""
    aws = node_config.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    return aws or node_config.get("scheduling", {}).get("provisioningModel") == "SPOT"


@pytest.mark.parametrize("device", DEVICES)
def test_the_serve_config_is_what_serve_reads_and_the_ray_service_holds(device):
    from ray.serve.schema import ServeDeploySchema

    config = parsed("kubernetes/components/endpoint/serve.yaml")
    spec = ray_resource(f"{device}/endpoint")["spec"]
    assert yaml.safe_load(spec["serveConfigV2"]) == config
    (application,) = ServeDeploySchema(**config).applications
    assert application.import_path == "netdiff_ray.distributed.serve:build"


def dockerfile() -> str:
    """Return the Dockerfile, an instruction a line, without comments."""
    text = (CLUSTER / "Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    return re.sub(r"\\\n\s*", "", text)


def test_what_the_image_copies_is_there():
    ignored = (ROOT / ".dockerignore").read_text().split()
    copied = set()
    for line in dockerfile().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= set(line.split()[1:-1])
    for source in copied:
        assert (ROOT / source).exists(), source
    assert {f"!{source}" for source in copied} == {w for w in ignored if w.startswith("!")}


def test_the_image_is_pinned_and_built_in_two_stages():
    build, final = re.split(r"^FROM ", dockerfile(), flags=re.MULTILINE)[1:]
    assert build.startswith("${BASE} AS build\n")
    assert final.startswith("${BASE}\n")
    assert re.search(r"^ARG BASE$", dockerfile(), re.MULTILINE)  # no default
    assert not re.search(r"\bpip\b|\bg?cc\b|g\+\+|build-essential", final)
    (install,) = (line for line in final.splitlines() if "apt-get install" in line)
    assert "tshark" in install.split()
    assert "--no-install-recommends" in install.split()
    assert "COPY --from=build /opt/netdiff /opt/netdiff" in final.splitlines()
    assert "imagetools inspect" in (CLUSTER / "README.md").read_text()


def test_proxies_of_the_image_cut_off_slow_clients():
    (environment,) = (line for line in dockerfile().splitlines() if line.startswith("ENV "))
    pairs = dict(pair.split("=", 1) for pair in environment.split()[1:])
    assert slow_clients.CALLBACK.items() <= pairs.items()


@pytest.mark.parametrize(
    ("base", "accepted"), [("python:3.11-slim", False), ("python@sha256:" + "0" * 64, True)]
)
def test_an_image_without_its_digest_is_refused(base, accepted):
    (check,) = (line for line in dockerfile().splitlines() if line.startswith("RUN case"))
    run = subprocess.run(
        ["sh", "-c", check.removeprefix("RUN ")], env={"BASE": base}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (run.returncode == 0) == accepted
    assert accepted or base in run.stderr


def promtool(*arguments):
    """Return what promtool prints; the test is skipped where it is missing."""
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool (the package prometheus)")
    run = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_prometheus_accepts_its_files():
    promtool("check", "config", str(CLUSTER / "prometheus.yml"))
    assert "SUCCESS" in promtool("check", "rules", "--lint-fatal", str(CLUSTER / "rules.yml"))


def panels(path):
    """Yield (title, expression) of each query of each panel of a dashboard."""
    for panel in json.loads(Path(path).read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def alerts():
    """Yield (name, expression) of each alert."""
    for group in parsed("rules.yml")["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def named_by(expression):
    """Return the metrics that an expression names."""
    return set(re.findall(r"\b(?:ray|autoscaler|kube|kuberay)_\w+", expression))


def names_of(metric):
    """Return the names under which Prometheus finds a metric of the project."""
    name = f"ray_{metric.name}"
    return {
        "counter": [f"{name}_total"],
        "gauge": [name],
        "histogram": [f"{name}_bucket", f"{name}_sum", f"{name}_count"],
    }[metric.kind]


def test_every_metric_that_is_named_exists():
    import ray.dashboard.modules.metrics.dashboards as rays_own

    sources = [p.read_text() for p in Path(rays_own.__file__).parent.glob("*.py")]
    known = {name for source in sources for name in named_by(source)}
    known |= {name for metric in METRICS for name in names_of(metric)} | OTHERS_METRICS
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
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= 24
        assert panel["type"] == "row" or (panel["targets"] and panel["description"])
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(board)))
    assert used <= variables | {"__rate_interval", "__all"}


def test_every_panel_of_a_run_shows_the_chosen_runs():
    from netdiff_ray.distributed.metrics import ENDPOINT

    by_name = {name: metric for metric in METRICS for name in names_of(metric)}
    (path,) = (path for path in DASHBOARDS if path.stem == "run")
    board = json.loads(path.read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            names = named_by(target["expr"])
            if names & by_name.keys():
                assert target["expr"].count('run=~"$run"') == target["expr"].count("ray_netdiff_")
                assert all("run" in by_name[name].tags for name in names)
            else:
                assert "Of the whole cluster" in panel["description"], panel["title"]
    (variable,) = (v for v in board["templating"]["list"] if v["name"] == "run")
    assert re.fullmatch(variable["allValue"], "s3://bucket/set")
    assert re.fullmatch(variable["allValue"], "file:///data/set")
    assert not re.fullmatch(variable["allValue"], ENDPOINT)


def series(metric: str, values: str, /, **labels: str) -> dict:
    """Return a series as promtool takes it, a value a minute."""
    tags = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return {"series": f"{metric}{{{tags}}}", "values": values}


RUN = {"run": "s3://bucket/set"}
HEALTHY = "ray_serve_deployment_replica_healthy"
APPLICATION = {"application": "netdiff", "deployment": "Endpoint"}


@pytest.mark.parametrize(
    ("alert", "inputs", "fires", "quiet"),
    [
        (  # its driver goes after 10 of 40; it comes back 60 minutes later, and gets done
            "NetdiffRunFailed",
            [
                series("ray_netdiff_run_planned", "40x20 stale _x59 40x20 stale", **RUN),
                series("ray_netdiff_run_done", "0+1x10 10x9 stale _x59 10+3x10 40x9 stale", **RUN),
            ],
            (30, 70), (5, 20, 90, 120),
        ),
        (  # a second driver stands still for an hour, but is alive
            "NetdiffRunFailed",
            [
                series("ray_netdiff_run_planned", "40x90", **RUN),
                series("ray_netdiff_run_done", "3x90", **RUN),
            ],
            (), (30, 90),
        ),
        (
            "NetdiffNoDataset",
            [series("ray_netdiff_dataset_time_seconds", "60 60 stale", **RUN)],
            (1460, 3000), (5, 1430),
        ),
        (  # another one was drawn in time
            "NetdiffNoDataset",
            [
                series("ray_netdiff_dataset_time_seconds", "60 60 stale", **RUN),
                series("ray_netdiff_dataset_time_seconds", "_x999 60000 stale", run="s3://b/2"),
            ],
            (2460,), (1460, 2000),
        ),
        (  # what asks for the health is no user
            "NetdiffRequestsFail",
            [
                series("ray_netdiff_requests_total", "0+9x60", route="/healthz",
                       outcome="server_error"),
                series("ray_netdiff_requests_total", "0+9x60", route="/v1/flows", outcome="ok"),
            ],
            (), (30, 60),
        ),
        (
            "NetdiffRequestsFail",
            [
                series("ray_netdiff_requests_total", "0+9x60", route="/healthz", outcome="ok"),
                series("ray_netdiff_requests_total", "0+1x60", route="/v1/flows",
                       outcome="server_error"),
                series("ray_netdiff_requests_total", "0+9x60", route="/v1/flows", outcome="ok"),
            ],
            (30, 60), (1,),
        ),
        (
            "NetdiffEndpointNotReady",
            [series("ray_netdiff_requests_total", "0+9x60", route="/healthz",
                    outcome="server_error")],
            (30, 60), (5,),
        ),
        (  # a cluster that is gone, and a day later is not looked for
            "NetdiffEndpointDown",
            [series(HEALTHY, "1x10 stale", **APPLICATION)],
            (20, 1000), (5, 1600),
        ),
        (
            "NetdiffEndpointDown",
            [
                series(HEALTHY, "1x10 0x50", **APPLICATION, replica="a"),
                series(HEALTHY, "1x60", **APPLICATION, replica="b"),
                series(HEALTHY, "0x60", application="netdiff", deployment="Denoiser"),
            ],
            (), (5, 30, 60),
        ),
        (
            "NetdiffKubernetesJobFailed",
            [series("kube_job_failed", "0x5 1x9", namespace="a", condition="true",
                    job_name="netdiff-nightly-29")],
            (8,), (3,),
        ),
        (
            "NetdiffRayJobFailed",
            [series("kuberay_job_deployment_status", "_x5 1x9", namespace="a", name="netdiff-run",
                    deployment_status="Failed")],
            (8,), (3,),
        ),
    ],
)  # fmt: skip
def test_alerts_fire_when_they_should(alert, inputs, fires, quiet, tmp_path):
    (rule,) = (
        rule for group in parsed("rules.yml")["groups"] for rule in group["rules"]
        if rule["alert"] == alert
    )  # fmt: skip
    # promtool compares labels and texts too; the question here is whether an alert fires.
    rule = {**rule, "labels": {"fires": "yes"}, "annotations": {}}
    rule["expr"] = f"count(({rule['expr']}))"
    (tmp_path / "rules.yml").write_text(
        yaml.safe_dump({"groups": [{"name": "tried", "rules": [rule]}]})
    )
    fired = [{"exp_labels": {"fires": "yes"}}]
    times = [(minute, fired) for minute in fires] + [(minute, []) for minute in quiet]
    tests = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": inputs,
                "alert_rule_test": [
                    {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": expected}
                    for minute, expected in times
                ],
            }
        ],
    }
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(tests))
    promtool("test", "rules", str(tmp_path / "tests.yml"))


def test_no_metric_is_made_elsewhere():
    for path in (ROOT / "netdiff_ray").rglob("*.py"):
        modules = {
            node.module
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
        }
        if path.name != "metrics.py":
            assert "ray.util.metrics" not in modules, path
