"""The manifests as kustomize renders them, and what tests ask of them."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = ["kind", "minikube", "production"]
SERVICES = ["coordinator", "orders", "inventory", "payments", "notifications", "gateway"]
NAMESPACE = "sagamesh"
# Where the binaries are, for the tests that ask them; without them those are skipped.
BINARIES = Path(os.environ.get("SAGAMESH_BIN_DIR", ROOT / "target/debug")).resolve()
# Kinds of the Gateway API and of Linkerd: the mesh's own reader checks them (test_policy.py).
POLICY_GROUPS = ("gateway.networking.k8s.io/", "policy.linkerd.io/")


def kustomize(folder):
    """What `kubectl apply -k` would send."""
    tool = next((tool for tool in (["kubectl", "kustomize"], ["kustomize", "build"]) if shutil.which(tool[0])), None)
    if not tool:
        pytest.fail("kubectl is missing: it renders the manifests. Get it from https://kubernetes.io/docs/tasks/tools/ (1.28 or newer)")
    run = subprocess.run([*tool, str(folder)], capture_output=True, text=True, timeout=60)
    if run.returncode != 0:
        pytest.fail(f"{folder.relative_to(ROOT)} is not rendered: {run.stderr.splitlines()[-1]}")
    # Warnings, such as of deprecated fields, are faults too.
    assert not run.stderr, run.stderr
    return [document for document in yaml.safe_load_all(run.stdout) if document]


class Manifests:
    """The resources of one overlay."""

    def __init__(self, name):
        self.name = name
        self.all = kustomize(ROOT / "k8s/overlays" / name)

    def kind(self, *kinds, namespace=NAMESPACE):
        """All resources of these kinds in a namespace; None is everywhere."""
        found = [one for one in self.all if one["kind"] in kinds]
        return [one for one in found if namespace is None or one["metadata"].get("namespace") == namespace]

    def get(self, kind, name, namespace=NAMESPACE):
        """The one resource of that name."""
        found = [one for one in self.kind(kind, namespace=namespace) if one["metadata"]["name"] == name]
        assert len(found) == 1, f"{self.name}: {len(found)} resources {kind} {name}"
        return found[0]

    def workloads(self, namespace=None):
        """Deployments and StatefulSets."""
        return self.kind("Deployment", "StatefulSet", namespace=namespace)

    def workload(self, service):
        """The Deployment or StatefulSet of a service."""
        return self.get("StatefulSet" if service == "coordinator" else "Deployment", service)

    def container(self, service):
        """The service's own container."""
        containers = pod(self.workload(service))["containers"]
        assert [one["name"] for one in containers] == ["service"]
        return containers[0]

    def environment(self, service):
        """Name to value of the service's variables; values from Secrets and fields are shown as such."""
        container, found = self.container(service), {}
        for source in container.get("envFrom", []):
            found.update(self.get("ConfigMap", source["configMapRef"]["name"])["data"])
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            secret = source.get("secretKeyRef")
            field = source.get("fieldRef", {}).get("fieldPath")
            shown = f"secret {secret['name']}/{secret['key']}" if secret else f"field {field}"
            found[variable["name"]] = variable.get("value", shown)
        return found


def pod(workload):
    """The pod that a workload makes."""
    return workload["spec"]["template"]["spec"]


def labels(workload):
    """The labels of its pods."""
    return workload["spec"]["template"]["metadata"]["labels"]


def selects(selector, found):
    """Whether a label selector (or a Service's plain map) selects these labels."""
    plain = selector.get("matchLabels", {}) if "matchLabels" in selector or "matchExpressions" in selector else selector
    expressions = selector.get("matchExpressions", [])
    assert all(one["operator"] == "In" for one in expressions)
    return all(found.get(key) == value for key, value in plain.items()) and all(
        found.get(one["key"]) in one["values"] for one in expressions
    )


def containers(workload):
    """All its containers, those before the start included."""
    return pod(workload).get("initContainers", []) + pod(workload)["containers"]


@cache
def load(name):
    return Manifests(name)


@pytest.fixture(params=OVERLAYS)
def manifests(request):
    """Each overlay in turn."""
    return load(request.param)


@pytest.fixture(params=SERVICES)
def service(request):
    """Each service in turn."""
    return request.param


def binary(name):
    """One of this project's binaries."""
    if not (BINARIES / name).exists():
        pytest.skip(f"not run: {BINARIES / name} is not built (cargo build --workspace --bins)")
    return BINARIES / name


@cache
def postgres_bin():
    """Where PostgreSQL's programs are, or None."""
    found = shutil.which("initdb")
    candidates = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in candidates if (folder / "initdb").exists()), None)


def not_run(reason):
    """A check that this machine cannot make. Where it must be made, that is a failure."""
    if os.environ.get("SAGAMESH_REQUIRE_POSTGRES") == "1":
        pytest.fail(reason)
    pytest.skip(f"not run: {reason}")
