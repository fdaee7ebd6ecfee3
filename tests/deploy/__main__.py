#!/usr/bin/env python3
"""Checks deploy/: every object against the schemas of Kubernetes, and what each pod has to promise."""

import json
import pathlib
import sys
import tomllib

import helm_sdkpy
import kubernetes_validate
import yaml

import chart

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "antiphon"
KUBERNETES = "1.34"
# Interrupted turns are recorded within this time after timeouts.shutdown.
RECORDING_SECONDS = 3
WITHOUT_SCHEMA = {"Kustomization", "ServiceMonitor"}
VALUES = {
    "defaults": {},
    "everything": {
        "imagePullSecrets": [{"name": "registry"}],
        "shutdownSeconds": 120,
        "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "tls", "annotations": {"a/b": "c"}},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "podAnnotations": {"a/b": "c"},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
    },
    "nothing": {"migration": {"enabled": False}, "firstKey": {"enabled": False}, "disruptionBudget": {"enabled": False}},
}
REFUSED = [{"existingSecret": ""}, {"replica": 3}, {"preStopSeconds": 0}]


def seconds(duration):
    assert duration.endswith("s") and not duration.endswith("ms"), duration
    return int(duration[:-1])


def pod_of(found):
    return found["spec"]["template"]["spec"] if found["kind"] in ("Deployment", "Job") else None


def shutdown_of(deployment, config):
    """timeouts.shutdown, which the environment sets before the file does."""
    environment = {entry["name"]: entry["value"] for entry in deployment["containers"][0].get("env", [])}
    return seconds(environment.get("ANTIPHON_TIMEOUTS__SHUTDOWN") or config["timeouts"]["shutdown"])


def check_confined(pod):
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True and context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]} and "privileged" not in context
        assert "memory" in container["resources"]["limits"]


def check_deployment(found, config, services):
    pod = pod_of(found)
    container = pod["containers"][0]
    labels = found["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"] for port in container["ports"]}
    for probe, path in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz"), ("startupProbe", "/healthz")]:
        assert container[probe]["httpGet"]["path"] == path and container[probe]["httpGet"]["port"] in ports
    pre_stop = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    takes = pre_stop + shutdown_of(pod, config) + RECORDING_SECONDS
    assert pod["terminationGracePeriodSeconds"] > takes, (pod["terminationGracePeriodSeconds"], takes)
    assert found["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert found["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for service in services:
        assert service["spec"]["selector"].items() <= labels.items(), service["metadata"]["name"]
        assert all(port["targetPort"] in ports for port in service["spec"]["ports"]), service["metadata"]["name"]


def check(name, objects):
    """Returns how many objects have no schema."""
    unknown = 0
    for found in objects:
        where = f"{name}: {found['kind']} {found.get('metadata', {}).get('name')}"
        if found["kind"] in WITHOUT_SCHEMA:
            unknown += 1
            continue
        try:
            kubernetes_validate.validate(found, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            sys.exit(f"{where}: {error}")
        if pod := pod_of(found):
            check_confined(pod)
    configs = [tomllib.loads(found["data"]["antiphon.toml"]) for found in objects if found["kind"] == "ConfigMap"]
    services = [found for found in objects if found["kind"] == "Service"]
    deployments = [found for found in objects if found["kind"] == "Deployment"]
    assert len(deployments) == 1 and len(configs) == 1 and len(services) == 2, name
    check_deployment(deployments[0], configs[0], services)
    print(f"{name}: {len(objects)} objects")
    return unknown


def plain_manifests():
    files = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    kustomization = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
    missing = set(kustomization["resources"]) - {file.name for file in files}
    assert not missing, missing
    return [found for file in files for found in yaml.safe_load_all(file.read_text())]


def check_versions():
    """Every place that names the image names this version."""
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert about["version"] == about["appVersion"] == version, about
    for found in plain_manifests():
        if pod := pod_of(found):
            assert pod["containers"][0]["image"] == f"antiphon:{version}", found["metadata"]["name"]
    assert f"antiphon:{version}}}" in (DEPLOY / "compose" / "compose.yaml").read_text()


def write_queries(out):
    """The dashboard's queries as recording rules, for promtool to parse."""
    dashboard = json.loads((DEPLOY / "monitoring" / "dashboard.json").read_text())
    idents = [panel["id"] for panel in dashboard["panels"]]
    assert len(idents) == len(set(idents))
    variables = {"$job": "antiphon", "$instance": ".*", "$__rate_interval": "5m"}
    rules = []
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            query = target["expr"]
            for name, value in variables.items():
                query = query.replace(name, value)
            assert "$" not in query, query
            rules.append({"record": f"panel_{panel['id']}_{target['refId']}", "expr": query})
    out.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    print(f"dashboard: {len(idents)} panels")


def main():
    check_versions()
    unknown = check("manifests", plain_manifests())
    said = chart.lint(CHART)
    assert not said, said
    for name, values in VALUES.items():
        objects, notes = chart.render(CHART, values)
        assert "antiphon" in notes
        unknown += check(f"chart, {name}", objects)
    for values in REFUSED:
        try:
            chart.render(CHART, values)
        except helm_sdkpy.InstallError as error:
            assert "schema" in str(error), error
        else:
            sys.exit(f"the chart accepts {values}")
    for file in [*DEPLOY.rglob("*.yml"), DEPLOY / "compose" / "compose.yaml"]:
        assert yaml.safe_load(file.read_text()), file
    write_queries(pathlib.Path(sys.argv[1]))
    print(f"not checked: {unknown} objects without a schema (Kustomization, ServiceMonitor)")


if __name__ == "__main__":
    main()
