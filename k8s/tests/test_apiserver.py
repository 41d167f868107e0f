"""The overlays before a real API server: what it warns of, refuses, and says of a second version. `make verify-apiserver` runs this."""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import yaml
from conftest import NAMESPACE, OVERLAYS, ROOT, SERVICES, containers, load, pod
from control_plane import apiserver, etcd

sys.path.insert(0, str(ROOT / "k8s"))
import cluster  # noqa: E402

PROGRAMS = Path(os.environ.get("SAGAMESH_APISERVER_DIR", ROOT / "target/apiserver")).resolve()
# Linkerd's kinds that mesh/policy uses, with the versions that a cluster serves; the last one is stored. What is in them meshd's reader
# judges (tests/test_policy.py): here they only have to be there.
LINKERD = {
    "Server": ("servers", ["v1beta2", "v1beta3"]),
    "AuthorizationPolicy": ("authorizationpolicies", ["v1alpha1"]),
    "HTTPLocalRateLimitPolicy": ("httplocalratelimitpolicies", ["v1alpha1"]),
    "MeshTLSAuthentication": ("meshtlsauthentications", ["v1alpha1"]),
    "NetworkAuthentication": ("networkauthentications", ["v1alpha1"]),
}
# The first manifests that somebody may run: whoever does can apply any later ones. A commit that has to break with this says so in
# docs/kubernetes.md under "Upgrade", and moves it.
FIRST = "dd177d5"
numbers = itertools.count()


@cache
def crds():
    """The kinds that a cluster has before the overlays come."""
    files = sorted((PROGRAMS / "gateway-api").glob("*.yaml"))
    gateway_api = [one for file in files for one in yaml.safe_load_all(file.read_text()) if one and one["kind"] == "CustomResourceDefinition"]
    return [*(linkerd(kind, *rest) for kind, rest in LINKERD.items()), *gateway_api]


def linkerd(kind, plural, versions):
    anything = {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.policy.linkerd.io"},
        "spec": {
            "group": "policy.linkerd.io",
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [{"name": name, "served": True, "storage": name == versions[-1], "schema": anything} for name in versions],
        },
    }


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    with etcd(shutil.which("etcd"), tmp_path_factory.mktemp("etcd")) as url:
        yield url


@contextlib.contextmanager
def new_cluster(store, folder):
    """A cluster that is empty but for those kinds."""
    with apiserver(PROGRAMS / "kube-apiserver", store, folder) as server:
        nothing_said(server.apply(one) for one in crds())
        for one in crds():
            server.knows(one)
        yield server


@pytest.fixture
def server(store, tmp_path):
    with new_cluster(store, tmp_path / f"cluster-{next(numbers)}") as server:
        yield server


@pytest.fixture(scope="module", params=OVERLAYS)
def deployed(request, store, tmp_path_factory):
    """An overlay, and a cluster to which it was applied as docs/kubernetes.md says; what a dry run said before, and kubectl then."""
    manifests = load(request.param)
    with new_cluster(store, tmp_path_factory.mktemp("clusters") / f"cluster-{next(numbers)}") as server:
        namespaces = {"apiVersion": "v1", "kind": "List", "items": manifests.kind("Namespace", namespace=None)}
        kubectl(server, "apply", "--filename", "-", stdin=json.dumps(namespaces))
        said = [server.apply(one, dry_run=True) for one in manifests.all]
        yield manifests, server, said, kubectl(server, "apply", "--kustomize", ROOT / "k8s/overlays" / request.param)


def nothing_said(answers):
    found = [sentence for answer in answers for sentence in answer]
    assert not found, "\n" + "\n".join(found)


def kubectl(server, *arguments, stdin=None):
    """What kubectl says. Its warnings, the server's among them, are errors."""
    command = [PROGRAMS / "kubectl", f"--kubeconfig={server.kubeconfig('kind-sagamesh')}", *arguments]
    done = subprocess.run(list(map(str, command)), input=stdin, capture_output=True, text=True, timeout=120)
    if done.returncode or done.stderr:
        pytest.fail(f"kubectl {arguments[0]} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout.strip().splitlines()


def pods(manifests):
    """A Pod for each workload, as its controller would make it."""
    for one in manifests.workloads():
        template = deepcopy(one["spec"]["template"])
        claims = [each["metadata"]["name"] for each in one["spec"].get("volumeClaimTemplates", [])]
        template["spec"].setdefault("volumes", []).extend({"name": name, "persistentVolumeClaim": {"claimName": name}} for name in claims)
        metadata = {**template["metadata"], "name": f"{one['metadata']['name']}-0", "namespace": one["metadata"]["namespace"]}
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def default_accounts(server):
    """What the controllers, which do not run here, make in every namespace."""
    for namespace in (NAMESPACE, f"{NAMESPACE}-observability"):
        server.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace}})


def test_a_dry_run_finds_nothing(deployed):
    manifests, _, said, _ = deployed
    assert len(said) == len(manifests.all)
    nothing_said(said)


def test_kubectl_applies_everything_and_warns_of_nothing(deployed):
    manifests, _, _, lines = deployed
    assert len(lines) == len(manifests.all), lines
    assert all(line.startswith("namespace/") or line.endswith(" created") for line in lines), lines


def test_applied_again_nothing_changes(deployed):
    manifests, server, _, _ = deployed

    def versions():
        return {one["metadata"]["uid"]: one["metadata"]["resourceVersion"] for one in (server.get(each) for each in manifests.all)}

    before = versions()
    # Its word is not enough: it says "configured" where it sends defaults that the server has set already.
    kubectl(server, "apply", "--kustomize", ROOT / "k8s/overlays" / manifests.name)
    assert versions() == before


def test_the_pods_are_let_in(deployed):
    """Pods are judged when they are made: by the namespace's own level, and by `restricted`, to which all of ours keep."""
    manifests, server, _, _ = deployed
    default_accounts(server)
    found = list(pods(manifests))
    nothing_said(server.create(one, dry_run=True) for one in found)
    for namespace in {one["metadata"]["namespace"] for one in found}:
        strict = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}
        metadata = {"name": f"{namespace}-strict", "labels": strict}
        nothing_said([server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})])
        accounts = {one["spec"].get("serviceAccountName", "default") for one in found}
        nothing_said(server.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": metadata["name"]}}) for name in accounts)
        for one in found:
            if one["metadata"]["namespace"] == namespace:
                nothing_said([server.create({**one, "metadata": {**one["metadata"], "namespace": metadata["name"]}}, dry_run=True)])


def test_claims_and_scales_are_there(deployed):
    manifests, server, _, _ = deployed
    for one in manifests.workloads():
        for claim in one["spec"].get("volumeClaimTemplates", []):
            named = {**claim, "apiVersion": "v1", "kind": "PersistentVolumeClaim"}
            named["metadata"] = {**claim["metadata"], "namespace": one["metadata"]["namespace"]}
            nothing_said([server.create(named, dry_run=True)])
    for one in manifests.kind("HorizontalPodAutoscaler"):
        target = {**one["spec"]["scaleTargetRef"], "metadata": one["metadata"]}
        status, scale, _ = server.ask("GET", f"{server.path(target)}/{target['name']}/scale")
        assert status == 200 and scale["status"]["selector"] == f"app.kubernetes.io/name={target['name']}", scale


def test_service_accounts_may_only_what_they_need(deployed):
    manifests, server, _, _ = deployed

    def may(account, namespace, verb, resource):
        attributes = {"namespace": NAMESPACE, "verb": verb, "resource": resource}
        spec = {"user": f"system:serviceaccount:{namespace}:{account}", "groups": ["system:serviceaccounts"], "resourceAttributes": attributes}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        status, answer, _ = server.ask("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
        assert status == 201, answer
        return answer["status"]["allowed"]

    for account in SERVICES:
        assert not any(may(account, NAMESPACE, verb, resource) for verb in ("get", "list", "create") for resource in ("secrets", "pods", "configmaps"))
    if manifests.kind("ServiceAccount", namespace=f"{NAMESPACE}-observability"):
        prometheus = ("prometheus", f"{NAMESPACE}-observability")
        assert all(may(*prometheus, verb, "pods") for verb in ("get", "list", "watch"))
        assert not may(*prometheus, "get", "secrets") and not may(*prometheus, "delete", "pods")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_first_version_can_become_this_one(overlay, server, tmp_path):
    """No field that cannot be changed was: neither with kubectl's own apply nor with the server's."""
    archive = subprocess.run(["git", "-C", ROOT, "archive", FIRST, "k8s", "mesh/policy"], capture_output=True)
    if archive.returncode:
        pytest.skip(f"not run: this clone has no commit {FIRST}: git fetch --unshallow")
    subprocess.run(["tar", "-x", "-C", tmp_path], input=archive.stdout, check=True)
    kubectl(server, "apply", "--kustomize", tmp_path / "k8s/overlays" / overlay)
    kubectl(server, "apply", "--kustomize", ROOT / "k8s/overlays" / overlay)


def test_kind_up_deploys_it_twice(server, tmp_path, monkeypatch):
    """What k8s/cluster.py asks of kubectl, a server grants."""
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig("kind-sagamesh")))
    monkeypatch.setenv("PATH", f"{PROGRAMS}:{os.environ['PATH']}")
    ours = cluster.Cluster("kind", tmp_path / "images")
    ours.deploy()
    secret = ours.stored_passwords()
    ours.deploy()
    assert secret and ours.stored_passwords() == secret, "the database keeps the passwords that it was made with"
    for one in (load("kind").workload(service) for service in SERVICES):
        assert "kubectl.kubernetes.io/restartedAt" in server.get(one)["spec"]["template"]["metadata"]["annotations"]


def test_the_server_does_refuse(deployed):
    """Each check above can fail."""
    manifests, server, _, _ = deployed
    default_accounts(server)
    orders = manifests.workload("orders")
    with_field, selector, root = deepcopy(orders), deepcopy(orders), deepcopy(orders)
    with_field["spec"]["template"]["spec"]["containers"][0]["reddinessProbe"] = {}
    assert "reddinessProbe" in server.apply(with_field, dry_run=True)[0]
    selector["spec"]["selector"]["matchLabels"]["app"] = selector["spec"]["template"]["metadata"]["labels"]["app"] = "orders"
    assert "field is immutable" in server.ask("PUT", f"{server.path(orders)}/orders?dryRun=All", selector)[1]["message"]
    for container in containers(root):
        container["securityContext"] = {"runAsUser": 0}
    assert any("would violate PodSecurity" in one for one in server.ask("PUT", f"{server.path(orders)}/orders?dryRun=All", root)[2])
    route = deepcopy(manifests.kind("GRPCRoute")[0])
    route["metadata"]["name"], route["spec"]["rules"][0]["matches"] = "wrong", [{"method": {"type": "Nearly", "service": "a.B"}}]
    assert "Nearly" in server.apply(route, dry_run=True)[0]
