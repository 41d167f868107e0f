"""What every pod keeps to: restricted security, resources, disruption, walls; and that everything it names is there."""

from conftest import NAMESPACE, ROOT, SERVICES, containers, labels, load, pod, selects
from sources import constant

# Made outside, as docs/kubernetes.md says.
SECRETS = {f"{name}-database" for name in SERVICES if name != "gateway"} | {"gateway-jwks", "notifications-mail", "postgres-passwords"}


def test_security_is_restricted(manifests):
    for workload in manifests.workloads():
        where = f"{manifests.name}: {workload['metadata']['name']}"
        spec = pod(workload)
        assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] > 0, where
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}, where
        allowed = {"name", "configMap", "emptyDir", "secret", "projected", "persistentVolumeClaim"}
        assert all(volume.keys() <= allowed for volume in spec.get("volumes", [])), where
        for container in containers(workload):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"] is True, where
            assert context["capabilities"] == {"drop": ["ALL"]}, where


def test_namespaces_enforce_it(manifests):
    for one in manifests.kind("Namespace", namespace=None):
        level = one["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        # Linkerd's init container, where there is no CNI plugin: components/laptop says so.
        laptop = manifests.name != "production" and one["metadata"]["name"] == NAMESPACE
        assert level == ("privileged" if laptop else "restricted")


def test_resources_are_bounded(manifests):
    for workload in manifests.workloads():
        for container in containers(workload):
            resources = container["resources"]
            assert resources["requests"].keys() == resources["limits"].keys() == {"cpu", "memory"}, workload["metadata"]["name"]


def test_images_have_versions(manifests):
    for workload in manifests.workloads():
        for container in containers(workload):
            tag = container["image"].rpartition("/")[2].partition(":")[2]
            assert tag and tag != "latest", container["image"]


def test_images_are_those_that_are_built(manifests, service):
    # `make images` builds a target of this name for each of them.
    assert manifests.container(service)["image"].rpartition(":")[0].endswith(f"sagamesh/{service}")
    stages = (ROOT / "k8s/Dockerfile").read_text()
    assert f" AS {service}\n" in stages


def test_what_is_mounted_is_there(manifests):
    for workload in manifests.workloads():
        namespace, spec = workload["metadata"]["namespace"], pod(workload)
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        claims = {one["metadata"]["name"] for one in workload["spec"].get("volumeClaimTemplates", [])}
        mounted = {mount["name"] for one in containers(workload) for mount in one.get("volumeMounts", [])}
        assert mounted == volumes.keys() | claims, f"{workload['metadata']['name']}: a volume without a mount, or the reverse"
        for volume in volumes.values():
            if "configMap" in volume:
                manifests.get("ConfigMap", volume["configMap"]["name"], namespace)
        secrets = {volume["secret"]["secretName"] for volume in volumes.values() if "secret" in volume}
        variables = [variable for one in containers(workload) for variable in one.get("env", [])]
        secrets |= {variable["valueFrom"]["secretKeyRef"]["name"] for variable in variables if "secretKeyRef" in variable.get("valueFrom", {})}
        assert secrets <= SECRETS, f"{workload['metadata']['name']}: {secrets - SECRETS}"


def test_replicas_survive_a_drained_node(manifests, service):
    workload = manifests.workload(service)
    budget = manifests.get("PodDisruptionBudget", service)
    assert budget["spec"]["maxUnavailable"] == 1 and selects(budget["spec"]["selector"], labels(workload))
    for constraint in pod(workload)["topologySpreadConstraints"]:
        assert constraint["labelSelector"]["matchLabels"] == {"app.kubernetes.io/name": service}
    keys = [one["topologyKey"] for one in pod(workload)["topologySpreadConstraints"]]
    assert keys == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    if service != "coordinator":
        scaler = manifests.get("HorizontalPodAutoscaler", service)["spec"]
        assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": workload["kind"], "name": service}
        assert scaler["minReplicas"] >= 2 and "replicas" not in workload["spec"]


def test_everybody_is_behind_a_wall(manifests):
    policies = manifests.kind("NetworkPolicy")
    assert any(one["spec"]["podSelector"] == {} and one["spec"]["policyTypes"] == ["Ingress", "Egress"] and not one["spec"].keys() & {"ingress", "egress"} for one in policies)
    for workload in manifests.workloads(NAMESPACE):
        names = {port["name"] for port in pod(workload)["containers"][0]["ports"]}
        mine = [one for one in policies if one["spec"]["podSelector"] != {} and selects(one["spec"]["podSelector"], labels(workload))]
        doors = {port["port"] for one in mine for rule in one["spec"].get("ingress", []) for port in rule["ports"]}
        assert {door for door in doors if isinstance(door, str)} <= names, f"{workload['metadata']['name']}: {doors}"
        assert doors & names, f"nobody reaches {workload['metadata']['name']}"


def connections(manifests):
    """What all services take of a server at most."""
    source = "mesh/cli/src/launcher/postgres.rs"
    of_a_log = constant(source, "OF_A_LOG")
    more = {"coordinator": constant(source, "OF_LEASES"), "payments": constant(source, "OF_A_BANK")}
    wanted = 0
    for service in SERVICES:
        if service == "gateway":
            continue
        if service == "coordinator":
            replicas = manifests.workload(service)["spec"]["replicas"]
        else:
            # One more while a new version comes.
            replicas = manifests.get("HorizontalPodAutoscaler", service)["spec"]["maxReplicas"] + 1
        wanted += replicas * (of_a_log + more.get(service, 0))
    return wanted


def test_the_database_has_a_connection_for_everybody():
    server = pod(load("kind").get("StatefulSet", "postgres"))["containers"][0]
    (allowed,) = (int(one.partition("=")[2]) for one in server["args"] if one.startswith("max_connections="))
    reserved = 3
    assert connections(load("kind")) <= allowed - reserved
    assert f"at its most {connections(load('production'))}," in (ROOT / "docs/kubernetes.md").read_text()


def test_the_overlays_for_one_machine_are_alike():
    # What is tried on one is what the other has.
    assert load("kind").all == load("minikube").all
