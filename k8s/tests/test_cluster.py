"""k8s/cluster.py without a cluster: what it says when something is missing, and what it makes. kubectl and the like are played."""

import base64
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import ROOT, load, pod

sys.path.insert(0, str(ROOT / "k8s"))
import keys  # noqa: E402
import troubles  # noqa: E402

CLUSTER = ROOT / "k8s/cluster.py"
BINARIES = Path(os.environ.get("SAGAMESH_BIN_DIR", ROOT / "target/debug"))


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
    if not all((BINARIES / name).exists() for name in ("gateway", "sagamesh")):
        pytest.skip(f"not run: gateway and sagamesh are not in {BINARIES} (cargo build --workspace --bins)")
    keys.make(tmp_path, run)
    token = run(BINARIES / "sagamesh", "token", "--data-dir", tmp_path, "--sub", "alice").split()[-1]
    with socket.socket() as probe, socket.socket() as other:
        ports = []
        for one in (probe, other):
            one.bind(("127.0.0.1", 0))
            ports.append(one.getsockname()[1])
    command = [BINARIES / "gateway", "--listen", f"127.0.0.1:{ports[0]}", "--admin-listen", f"127.0.0.1:{ports[1]}"]
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
