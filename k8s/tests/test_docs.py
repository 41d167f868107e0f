"""docs/kubernetes.md names what is there."""

import re

import yaml
from conftest import ROOT, load
from test_pods import SECRETS
from test_schemas import OLDEST, VERSIONS

TEXT = (ROOT / "docs/kubernetes.md").read_text()
PROTOS = "\n".join(path.read_text() for path in (ROOT / "proto/saga/v1").glob("*.proto"))


def test_targets_of_make_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"`make ([\w-]+)", TEXT))
    assert targets and all(f"\n{target}:" in makefile for target in targets), targets


def test_files_exist():
    paths = set(re.findall(r"`((?:k8s|proto|mesh)/[\w/.-]+)`", TEXT))
    assert len(paths) > 3 and all((ROOT / path).exists() for path in paths), paths


def test_methods_and_actions_exist():
    methods = set(re.findall(r"saga\.v1\.(\w+)/(\w+)", TEXT))
    assert methods
    for service, method in methods:
        body = re.search(rf"service {service} \{{(.*?)\n\}}", PROTOS, re.S)
        assert body and f"rpc {method}(" in body[1], f"{service}/{method}"
    actions = set(re.findall(r"OPERATOR_ACTION_\w+", TEXT)) | {f"OPERATOR_ACTION_{name}" for name in re.findall(r"`((?:RETRY|SKIP|RESOLVE)\w*)`", TEXT)}
    assert len(actions) == 4 and all(action in PROTOS for action in actions)


def test_secrets_are_listed():
    for name in SECRETS - {"postgres-passwords"}:
        assert f"`{name}`" in TEXT, name
    assert (ROOT / "k8s/overlays/production/kustomization.yaml").read_text().count("-database") >= 5


def test_versions_are_those_that_are_checked():
    assert f"Kubernetes {OLDEST} to {VERSIONS[-1]}" in TEXT


def test_alerts_and_secrets_that_are_named_exist():
    alerts = yaml.safe_load((ROOT / "k8s/components/observability/config/alerts.yml").read_text())
    named = re.findall(r"the alert (\w+)", TEXT)
    assert named and set(named) <= {rule["alert"] for group in alerts["groups"] for rule in group["rules"]}


def test_forwarded_ports_are_there():
    for namespace, service, port in re.findall(r"kubectl -n ([\w-]+) port-forward service/(\w+) (?:\d+:)?(\d+)", TEXT):
        ports = load("kind").get("Service", service, namespace)["spec"]["ports"]
        assert int(port) in [one["port"] for one in ports], f"{service} {port}"
