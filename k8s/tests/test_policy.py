"""The manifests fit mesh/policy: its files are applied as they are, and every name in them leads somewhere."""

import copy
import subprocess

import yaml
from conftest import NAMESPACE, POLICY_GROUPS, ROOT, SERVICES, binary, containers, labels, load, pod, selects

FOLDER = ROOT / "mesh/policy"
# Who has no pod of its own: the operator calls from outside.
WITHOUT_PODS = {"operator"}


def policy():
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    return [one for name in listed for one in yaml.safe_load_all((FOLDER / name).read_text()) if one]


def pods_of(manifests, selector):
    return [one for one in manifests.workloads(NAMESPACE) if selects(selector, labels(one))]


def port_names(workload):
    return {port["name"]: port["containerPort"] for one in containers(workload) for port in one.get("ports", [])}


def taken_up(resources, folder):
    """What the mesh's own control plane says to these resources as its policy: it refuses unknown fields and references to nowhere."""
    (folder / "policy").mkdir()
    (folder / "policy/all.yaml").write_text(yaml.safe_dump_all(resources))
    options = [f"--policy-dir={folder}/policy", f"--data-dir={folder}", "--consul-listen=none", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"]
    process = subprocess.Popen([binary("meshd"), *options], env={}, stderr=subprocess.PIPE, text=True)
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if "policy taken up" in line:
                return True, line
        return False, "".join(said)
    finally:
        process.kill()
        process.communicate()


def mesh_resources(manifests):
    return [one for one in manifests.all if one["apiVersion"].startswith(POLICY_GROUPS)] + manifests.kind("Service", "ServiceAccount")


def test_the_meshs_own_reader_takes_what_a_cluster_gets(manifests, tmp_path):
    good, said = taken_up(mesh_resources(manifests), tmp_path)
    assert good and f"servers={len(manifests.kind('Server'))}" in said, said


def test_the_reader_refuses_what_is_wrong(tmp_path):
    resources = copy.deepcopy(mesh_resources(load("production")))
    next(one for one in resources if one["metadata"]["name"] == "proxy-admin")["spec"]["prot"] = "linkerd-admin"
    good, said = taken_up(resources, tmp_path)
    assert not good and "prot" in said, said


def test_policy_is_applied_as_it_is(manifests):
    for one in policy():
        assert one in manifests.all, f"{one['kind']} {one['metadata']['name']} was changed or left out"


def test_ports_of_services_are_those_of_pods(manifests):
    for service in manifests.kind("Service", namespace=None):
        selector = dict(service["spec"]["selector"])
        replica = selector.pop("statefulset.kubernetes.io/pod-name", None)
        namespace = service["metadata"]["namespace"]
        found = [one for one in manifests.workloads(namespace) if selects(selector, labels(one))]
        assert len(found) == 1, f"{service['metadata']['name']} selects {len(found)} workloads"
        assert replica is None or found[0]["kind"] == "StatefulSet"
        for port in service["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            ports = port_names(found[0])
            assert target in ports or target in ports.values(), f"{service['metadata']['name']}: nobody listens on {target}"


def test_servers_select_ports_that_are_there(manifests):
    for server in manifests.kind("Server"):
        found = pods_of(manifests, server["spec"]["podSelector"])
        assert found, server["metadata"]["name"]
        if server["spec"]["port"] == "linkerd-admin":
            continue  # The port of Linkerd's own container.
        for one in found:
            assert server["spec"]["port"] in port_names(one), f"{server['metadata']['name']}, {one['metadata']['name']}"


def test_every_port_is_under_a_server(manifests, service):
    for name in port_names(manifests.workload(service)):
        servers = [one for one in manifests.kind("Server") if one["spec"]["port"] == name]
        covering = [one for one in servers if selects(one["spec"]["podSelector"], labels(manifests.workload(service)))]
        assert len(covering) == 1, f"port {name} of {service} is under {len(covering)} Servers"


def test_listened_ports_are_declared(manifests, service):
    # A binary listens where its variables say, and nowhere else.
    environment = manifests.environment(service)
    listened = {int(environment[name].rsplit(":", 1)[1]) for name in ("SAGAMESH_LISTEN", "SAGAMESH_ADMIN_LISTEN")}
    assert set(port_names(manifests.workload(service)).values()) == listened
    assert environment["SAGAMESH_LISTEN"].startswith("0.0.0.0:"), "the proxy and the kubelet come from outside of the loopback"


def test_probes_ask_what_is_served(manifests, service):
    container = manifests.container(service)
    admin = (ROOT / "services/chassis/src/admin.rs").read_text()
    for probe, path in (("readinessProbe", "/ready"), ("livenessProbe", "/live")):
        assert container[probe]["httpGet"]["path"] == path and f'"{path}"' in admin
        assert container[probe]["httpGet"]["port"] == "admin"
    # Ready within 2 s of its start: the first look must not be what takes long.
    readiness = container["readinessProbe"]
    assert readiness.get("initialDelaySeconds", 0) + readiness["periodSeconds"] <= 1


def test_identities(manifests):
    accounts = {one["metadata"]["name"] for one in manifests.kind("ServiceAccount")}
    for service in SERVICES:
        workload = manifests.workload(service)
        assert pod(workload)["serviceAccountName"] == service == labels(workload)["app.kubernetes.io/name"]
    named = {
        reference["name"]
        for one in manifests.kind("MeshTLSAuthentication")
        for reference in one["spec"]["identityRefs"]
        if reference["kind"] == "ServiceAccount"
    }
    assert named <= accounts
    # Nobody may call who is not there.
    assert named <= set(SERVICES) | WITHOUT_PODS


def test_who_is_called_may_be_called(manifests, service):
    """Addresses in the environment lead to services whose policy knows this identity."""
    environment = manifests.environment(service)
    targets = {url.split("//")[1].split(":")[0].split(".")[0] for value in environment.values() for url in value.split(",") if url.startswith("http://")}
    for target in {name for name in targets if manifests_have_server(manifests, name)}:
        prefix = "coordinator" if target.startswith("coordinator") else target
        allowed = {
            reference["name"]
            for one in manifests.kind("MeshTLSAuthentication")
            if one["metadata"]["name"].startswith(f"{prefix}-")
            for reference in one["spec"]["identityRefs"]
        }
        assert service in allowed, f"{service} is told where {target} is, and may not call it"


def manifests_have_server(manifests, name):
    name = "coordinator" if name.startswith("coordinator") else name
    return any(one["metadata"]["name"] == f"{name}-grpc" for one in manifests.kind("Server"))
