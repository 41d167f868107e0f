"""What the NetworkPolicies let through, judged as a cluster's network does: every pod's own rules, at both ends."""

from urllib.parse import urlsplit

from conftest import NAMESPACE, SERVICES, labels, pod, selects

STRANGERS = [("elsewhere", {"app.kubernetes.io/name": "orders"}), (NAMESPACE, {"app": "debug"})]
WITH_DATABASE = [name for name in SERVICES if name != "gateway"]


def end(manifests, service, namespace=NAMESPACE):
    """A pod of that workload, as one end of a connection."""
    found = [one for one in manifests.workloads(namespace) if one["metadata"]["name"] == service]
    return (namespace, labels(found[0]))


def peer_is(peer, owner, other):
    """Whether a rule of a policy in the namespace `owner` means that pod; addresses are those of nobody here."""
    namespace, pod_labels = other
    if "ipBlock" in peer:
        return False
    if "namespaceSelector" in peer:
        here = selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": namespace})
    else:
        here = namespace == owner
    return here and selects(peer.get("podSelector", {}), pod_labels)


def lets(manifests, direction, mine, other, port):
    """Whether the policies of one end let the other one through; `port` is its name and number."""
    namespace, pod_labels = mine
    policies = [one["spec"] for one in manifests.kind("NetworkPolicy", namespace=namespace) if selects(one["spec"]["podSelector"], pod_labels)]
    policies = [one for one in policies if direction.capitalize() in one["policyTypes"]]
    peers = "from" if direction == "ingress" else "to"
    rules = [rule for one in policies for rule in one.get(direction, [])]
    return not policies or any(
        (peers not in rule or any(peer_is(peer, namespace, other) for peer in rule[peers]))
        and ("ports" not in rule or any(each["port"] in port for each in rule["ports"]))
        for rule in rules
    )


def reaches(manifests, source, target, port):
    return lets(manifests, "egress", source, target, port) and lets(manifests, "ingress", target, source, port)


def port_of(manifests, service, name, namespace=NAMESPACE):
    workload = next(one for one in manifests.workloads(namespace) if one["metadata"]["name"] == service)
    return next((each["name"], each["containerPort"]) for each in pod(workload)["containers"][0]["ports"] if each["name"] == name)


def test_services_reach_those_that_they_call(manifests, service):
    # Once a label that kustomize added shut everybody out but the service itself; no schema minds that.
    called = 0
    for value in manifests.environment(service).values():
        for url in value.split(",") if value.startswith("http://") else []:
            host = urlsplit(url.replace("$(SAGAMESH_REPLICA)", "coordinator-0")).hostname
            name, _, namespace = host.partition(".")
            name, namespace = "coordinator" if name.startswith("coordinator") else name, namespace or NAMESPACE
            port = port_of(manifests, name, "grpc" if namespace == NAMESPACE else "otlp", namespace)
            assert reaches(manifests, end(manifests, service), end(manifests, name, namespace), port), url
            # What the mesh's proxies send each other.
            assert namespace != NAMESPACE or reaches(manifests, end(manifests, service), end(manifests, name), ("linkerd", 4143))
            called += 1
    assert called


def test_services_with_a_database_alone_reach_it(manifests):
    if not [one for one in manifests.workloads(NAMESPACE) if one["metadata"]["name"] == "postgres"]:
        # Outside of the cluster: an address.
        for service in SERVICES:
            policies = [one["spec"] for one in manifests.kind("NetworkPolicy") if selects(one["spec"]["podSelector"], end(manifests, service)[1])]
            outside = {each["port"] for one in policies for rule in one.get("egress", []) if any("ipBlock" in to for to in rule["to"]) for each in rule["ports"]}
            assert (5432 in outside) == (service in WITH_DATABASE), service
        return
    for service in SERVICES:
        port = port_of(manifests, "postgres", "postgres")
        assert reaches(manifests, end(manifests, service), end(manifests, "postgres"), port) == (service in WITH_DATABASE), service


def test_strangers_reach_the_gateway_alone(manifests, service):
    for stranger in STRANGERS:
        for name in ("grpc", "http", "admin"):
            ports = [each for each in pod(manifests.workload(service))["containers"][0]["ports"] if each["name"] == name]
            for port in ((each["name"], each["containerPort"]) for each in ports):
                assert lets(manifests, "ingress", end(manifests, service), stranger, port) == (name == "http"), f"{stranger} {service} {name}"


def test_names_are_found_and_prometheus_scrapes(manifests, service):
    names = ("kube-system", {"k8s-app": "kube-dns"})
    assert lets(manifests, "egress", end(manifests, service), names, (53,))
    if manifests.workloads(f"{NAMESPACE}-observability"):
        prometheus = end(manifests, "prometheus", f"{NAMESPACE}-observability")
        assert reaches(manifests, prometheus, end(manifests, service), port_of(manifests, service, "admin"))
