"""k8s/cluster.py without a cluster: what it says when something is missing, and what it makes. kubectl and the like are played."""

import base64
import http.server
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest
from conftest import ROOT, SERVICES, binary, load, pod

sys.path.insert(0, str(ROOT / "k8s"))
import keys
import troubles

CLUSTER = ROOT / "k8s/cluster.py"


def tool(folder, name, script):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def stage(tmp_path):
    """A folder of tools that all do nothing, well; tests put others in their place."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("kubectl", "kind", "minikube", "linkerd", "sagamesh"):
        tool(folder, name, "exit 0")
    (folder / "openssl").symlink_to(shutil.which("openssl"))
    return folder


def cluster(stage, *arguments):
    command = [sys.executable, CLUSTER, *arguments, "--out", stage.parent / "images", "--sagamesh", stage / "sagamesh"]
    done = subprocess.run(command, env={"PATH": f"{stage}:/nowhere"}, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("which", ["kind", "minikube"])
def test_missing_tools_are_all_named(stage, which):
    for name in (which, "linkerd", "kubectl"):
        (stage / name).unlink()
    code, said = cluster(stage, "check", which)
    assert code == 1
    for name in (which, "linkerd", "kubectl"):
        assert f"  {name}: https://" in said


def test_with_all_tools_the_check_is_silent(stage):
    assert cluster(stage, "check", "kind") == (0, "")


def test_images_that_were_not_built(stage):
    code, said = cluster(stage, "load", "kind")
    assert code == 1 and "coordinator.tar: run `make images` first" in said


def test_no_cluster(stage):
    tool(stage, "kubectl", 'echo "error: context \\"kind-sagamesh\\" does not exist" >&2; exit 1')
    code, said = cluster(stage, "test", "kind")
    assert code == 1 and "there is no cluster kind-sagamesh" in said and "does not exist" in said and "make kind-up" in said


ALL_KINDS = [*troubles.GATEWAY_API, *troubles.LINKERD]


@pytest.mark.parametrize(
    ("crds", "linkerd", "secrets", "sentence"),
    [
        ([], "", [], "the Gateway API is not installed"),
        (troubles.GATEWAY_API, "", [], "Linkerd's kinds are missing, or too old (servers.policy.linkerd.io"),
        (ALL_KINDS, "", [], "the cluster has no Linkerd"),
        (ALL_KINDS, "deployment/linkerd-destination", ["gateway-jwks"], "these Secrets are missing in the namespace sagamesh: postgres-passwords"),
    ],
)
def test_what_a_cluster_lacks(stage, crds, linkerd, secrets, sentence):
    lines = lambda names, kind: "; ".join(f"echo {kind}/{name}" for name in names) or ":"
    tool(
        stage,
        "kubectl",
        f"""case "$*" in
*crd*) {lines(crds, "customresourcedefinition.apiextensions.k8s.io")} ;;
*linkerd-destination*) echo {linkerd} ;;
*secret*) {lines(secrets, "secret")} ;;
esac""",
    )
    code, said = cluster(stage, "test", "minikube")
    assert code == 1 and sentence in said and "make minikube-up" in said


def container(name="service", image="docker.io/sagamesh/orders:dev", **state):
    last = state.pop("last", {})
    return {"name": name, "image": image, "state": state, "lastState": last}


def sentence(*containers, inits=(), conditions=(), annotations=None, words=""):
    status = {"phase": "Pending", "containerStatuses": list(containers), "initContainerStatuses": list(inits), "conditions": list(conditions)}
    pods = [{"metadata": {"name": "orders-1", "annotations": annotations or {}}, "status": status}]
    return "\n".join(troubles.of_pods(pods, lambda *_, **__: words, "kind"))


READY = {"type": "Ready", "status": "True"}


def test_pods_that_are_held_up():
    pull = container(waiting={"reason": "ImagePullBackOff", "message": "not found"})
    assert "its image docker.io/sagamesh/orders:dev cannot be had" in sentence(pull) and "make kind-load" in sentence(pull)
    config = container(waiting={"reason": "CreateContainerConfigError", "message": 'secret "orders-database" not found'})
    assert 'missing (secret "orders-database" not found)' in sentence(config)
    crash = container(waiting={"reason": "CrashLoopBackOff"})
    assert sentence(crash, words="error: the log cannot be opened").endswith("service ends again and again: error: the log cannot be opened")
    memory = container(waiting={"reason": "CrashLoopBackOff"}, last={"terminated": {"reason": "OOMKilled"}})
    assert "ended at its memory limit" in sentence(memory)
    wait = container("wait-for-database", running={})
    assert "it waits for its database: the database is PostgreSQL 12" in sentence(inits=[wait], words="the database is PostgreSQL 12")
    unscheduled = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}
    assert "no node takes it (0/1 nodes are available)" in sentence(conditions=[unscheduled])
    assert "not ready yet" in sentence(container(running={}))


def test_pods_that_are_well():
    running, proxy = container(running={}), container("linkerd-proxy", running={})
    assert sentence(running, inits=[proxy], conditions=[READY]) == ""
    assert "outside of the mesh" in sentence(running, conditions=[READY])
    assert sentence(running, conditions=[READY], annotations={"linkerd.io/inject": "disabled"}) == ""


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def test_secrets_are_those_that_pods_name(tmp_path):
    keys.make(tmp_path, run)
    made = {one["metadata"]["name"]: one["stringData"] for one in keys.secrets(None, tmp_path)}
    assert set(made) == set(troubles.SECRETS)
    named = set()
    for workload in load("kind").workloads():
        spec = pod(workload)
        named |= {volume["secret"]["secretName"] for volume in spec.get("volumes", []) if "secret" in volume}
        for one in spec["containers"]:
            named |= {variable["valueFrom"]["secretKeyRef"]["name"] for variable in one.get("env", []) if "secretKeyRef" in variable.get("valueFrom", {})}
    assert named == set(made)
    # The database keeps the passwords that it was made with.
    stored = {name: base64.b64encode(value.encode()).decode() for name, value in made["postgres-passwords"].items()}
    assert keys.secrets(stored, tmp_path)[2:] == [keys.secret(name, made[name]) for name in list(made)[2:]]


def test_the_gateway_takes_tokens_of_these_keys(tmp_path):
    keys.make(tmp_path, run)
    token = run(binary("sagamesh"), "token", "--data-dir", tmp_path, "--sub", "alice").split()[-1]
    with socket.socket() as probe, socket.socket() as other:
        ports = []
        for one in (probe, other):
            one.bind(("127.0.0.1", 0))
            ports.append(one.getsockname()[1])
    command = [binary("gateway"), "--listen", f"127.0.0.1:{ports[0]}", "--admin-listen", f"127.0.0.1:{ports[1]}"]
    process = subprocess.Popen(command, env={"SAGAMESH_JWKS": str(tmp_path / "jwks.json")}, stderr=subprocess.DEVNULL)
    try:
        statuses = {name: status_of(process, ports[0], value) for name, value in (("signed", token), ("broken", token[:-8] + "AAAAAAAA"))}
    finally:
        process.terminate()
        process.wait()
    # There is nobody behind it: what counts is who is let in.
    assert statuses["broken"] == 401 and statuses["signed"] in (502, 503, 504), statuses


def status_of(process, port, token):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/items", headers={"authorization": f"Bearer {token}"})
    while process.poll() is None:
        try:
            urllib.request.urlopen(request, timeout=30)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            time.sleep(0.05)  # It is not listening yet.
    raise AssertionError("the gateway ended")


class Gateway(http.server.BaseHTTPRequestHandler):
    """A gateway that confirms or rejects what is ordered."""

    ending, asked = "CONFIRMED", []

    def do_GET(self):
        self.answer({"items": [{"sku": "gone", "available": 0}, {"sku": "mouse", "available": 3}]})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        Gateway.asked.append((self.headers["authorization"], json.loads(body)["lines"]))
        self.answer({"order_id": "o-1", "status": Gateway.ending})

    def answer(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def gateway():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Gateway.asked.clear()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def played_cluster(stage, port):
    """Tools that write down what they were asked, and a cluster in which all is well."""
    log = stage.parent / "log"
    ready = {"metadata": {"name": "orders-1"}, "status": {"conditions": [READY], "containerStatuses": [container("linkerd-proxy", running={})]}}
    (stage.parent / "pods.json").write_text(json.dumps({"items": [ready]}))
    for name in ("kind", "linkerd"):
        tool(stage, name, f'echo "{name} $*" >> {log}')
    tool(stage, "sagamesh", "echo token-of-alice")
    tool(
        stage,
        "kubectl",
        f"""echo "kubectl $*" >> {log}
case "$*" in
*port-forward*) echo "Forwarding from 127.0.0.1:{port} -> 8080"; exec {shutil.which("sleep")} 60 ;;
*"get pods"*) {shutil.which("cat")} {stage.parent}/pods.json ;;
*"get crd"*) {"; ".join(f"echo crd/{name}" for name in ALL_KINDS)} ;;
*"get secret --output name"*) {"; ".join(f"echo secret/{name}" for name in troubles.SECRETS)} ;;
*"get --namespace linkerd"*) [ -e {stage.parent}/meshed ] && echo deployment/linkerd-destination ;;
*"apply --filename -"*) {shutil.which("cat")} >> {stage.parent}/applied ;;
esac
exit 0""",
    )
    return log


def test_up_goes_all_the_way(stage, gateway):
    log = played_cluster(stage, gateway)
    (stage.parent / "images").mkdir()
    for service in SERVICES:
        (stage.parent / "images" / f"{service}.tar").touch()
    (stage.parent / "meshed").touch()
    Gateway.ending = "CONFIRMED"
    code, said = cluster(stage, "up", "kind")
    assert code == 0 and "order o-1 was placed and is CONFIRMED" in said, said
    assert Gateway.asked == [("Bearer token-of-alice", [{"sku": "mouse", "quantity": 1}])]
    steps = log.read_text().splitlines()
    order = ["kind create cluster", "standard-install.yaml", "linkerd --context kind-sagamesh check", "kind load image-archive", "base/namespace.yaml", "--kustomize", "get pods", "port-forward"]
    at = [next(number for number, step in enumerate(steps) if part in step) for part in order]
    assert at == sorted(at), steps
    # Secrets go by stdin: none of them is in a command.
    assert "postgres://orders:" in (stage.parent / "applied").read_text() and "postgres://" not in log.read_text()
    for text in ("service/grafana 3000", "service/jaeger", "docs/kubernetes.md"):
        assert text in said


def test_up_again_restarts_what_runs(stage, gateway):
    log = played_cluster(stage, gateway)
    (stage.parent / "images").mkdir()
    for service in SERVICES:
        (stage.parent / "images" / f"{service}.tar").touch()
    (stage.parent / "meshed").touch()
    script = (stage / "kubectl").read_text().replace('case "$*" in', 'case "$*" in\n*"deployment/gateway"*) echo deployment/gateway ;;', 1)
    (stage / "kubectl").write_text(script)
    Gateway.ending = "CONFIRMED"
    code, said = cluster(stage, "up", "kind")
    assert code == 0, said
    # A selector, as a kind alone and a kind with a name do not go together.
    assert "rollout restart deployment,statefulset --selector app.kubernetes.io/name in (coordinator,orders," in log.read_text()


def test_an_order_that_is_not_confirmed(stage, gateway):
    played_cluster(stage, gateway)
    (stage.parent / "meshed").touch()
    Gateway.ending = "REJECTED"
    code, said = cluster(stage, "test", "kind")
    assert code == 1 and "the order o-1 is REJECTED and not CONFIRMED" in said
