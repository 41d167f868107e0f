#!/usr/bin/env python3
"""The system on a cluster of one's own machine: `cluster.py up|load|test|down|check kind|minikube`. `make kind-up` and its like call it.

Every step first looks whether it can be done, and says what is missing and how to get it.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import keys
import troubles
from troubles import Trouble

HERE = Path(__file__).resolve().parent
NAME = "sagamesh"
NAMESPACE = "sagamesh"
SERVICES = ["coordinator", "orders", "inventory", "payments", "notifications", "gateway"]
# What Linkerd 2.18 and newer know.
GATEWAY_API = os.environ.get("GATEWAY_API", "v1.2.1")
GATEWAY_API_URL = f"https://github.com/kubernetes-sigs/gateway-api/releases/download/{GATEWAY_API}/standard-install.yaml"
PATIENCE = 300

TOOLS = {
    "kubectl": "https://kubernetes.io/docs/tasks/tools/",
    "kind": "https://kind.sigs.k8s.io/docs/user/quick-start/#installation (with Go: go install sigs.k8s.io/kind@latest)",
    "minikube": "https://minikube.sigs.k8s.io/docs/start/",
    "linkerd": "https://linkerd.io/getting-started/ (the command line, 2.18 or newer)",
    "openssl": "your system's packages (Debian: apt-get install openssl)",
}


def need(*tools):
    """All that is missing at once, not one after the other."""
    missing = [f"  {tool}: {TOOLS[tool]}" for tool in tools if not shutil.which(tool)]
    if missing:
        raise Trouble("these tools are missing; get them and run this again:\n" + "\n".join(missing))


def run(*command, stdin=None, capture=True, patience=120):
    """Runs a command; its own words are the reason when it fails."""
    try:
        done = subprocess.run(command, input=stdin, text=True, capture_output=capture, timeout=patience)
    except subprocess.TimeoutExpired:
        raise Trouble(f"`{' '.join(command[:4])}` did not end within {patience} s: does the cluster answer?") from None
    if done.returncode != 0:
        words = (done.stderr or "").strip().splitlines()
        raise Trouble(f"`{' '.join(map(str, command[:6]))}` failed: {words[-1] if words else f'exit code {done.returncode}'}")
    return done.stdout or ""


class Cluster:
    """A cluster of kind or minikube by the name of sagamesh."""

    def __init__(self, which, out):
        self.which, self.out = which, Path(out)
        self.context = f"kind-{NAME}" if which == "kind" else NAME

    def kubectl(self, *arguments, **options):
        return run("kubectl", "--context", self.context, *arguments, **options)

    def has(self, *arguments):
        """Whether a resource is there."""
        return bool(self.kubectl("get", *arguments, "--ignore-not-found", "--output", "name").strip())

    def apply(self, *resources):
        # By stdin: what is on a command line can be read by everybody on the machine.
        self.kubectl("apply", "--filename", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": resources}))

    # Steps ------------------------------------------------------------------------------------------------------------

    def create(self):
        if self.which == "kind":
            if NAME in run("kind", "get", "clusters").split():
                return
            command = ["kind", "create", "cluster", "--name", NAME, "--config", str(HERE / "overlays/kind/cluster.yaml")]
        else:
            command = ["minikube", "start", "--profile", NAME, "--cpus", "2", "--memory", "4g", "--addons", "metrics-server"]
        run(*command, capture=False, patience=900)

    def install_linkerd(self):
        self.kubectl("apply", "--server-side", "--filename", GATEWAY_API_URL)
        if not self.has("--namespace", "linkerd", "deployment/linkerd-destination"):
            for arguments in (["--crds"], []):
                self.kubectl("apply", "--filename", "-", stdin=run("linkerd", "--context", self.context, "install", *arguments))
        run("linkerd", "--context", self.context, "check", "--wait", "5m", capture=False, patience=400)

    def load(self):
        for service in SERVICES:
            archive = self.out / f"{service}.tar"
            if not archive.exists():
                raise Trouble(f"there is no image {archive}: run `make images` first")
            if self.which == "kind":
                run("kind", "load", "image-archive", str(archive), "--name", NAME, patience=300)
            else:
                run("minikube", "--profile", NAME, "image", "load", str(archive), patience=300)
            print(f"loaded {service}")

    def deploy(self):
        self.kubectl("apply", "--filename", str(HERE / "base/namespace.yaml"))
        self.apply(*keys.secrets(self.stored_passwords(), self.keys()))
        again = self.has("--namespace", NAMESPACE, "deployment/gateway")
        self.kubectl("apply", "--kustomize", str(HERE / "overlays" / self.which))
        if again:
            # Images of the same name may be new ones.
            self.kubectl("--namespace", NAMESPACE, "rollout", "restart", "deployment,statefulset", "--selector", f"app.kubernetes.io/name in ({','.join(SERVICES)})")

    def stored_passwords(self):
        """Those that the database was made with, if it was."""
        if not self.has("--namespace", NAMESPACE, "secret/postgres-passwords"):
            return None
        return json.loads(self.kubectl("--namespace", NAMESPACE, "get", "secret/postgres-passwords", "--output", "json"))["data"]

    def keys(self):
        """The folder of the key that signs development tokens."""
        folder = self.out.parent / "k8s" / self.which
        keys.make(folder, run)
        return folder

    def preconditions(self):
        """What has to be there before anything can be asked of the system."""
        try:
            self.kubectl("version", "--request-timeout=10s")
        except Trouble as trouble:
            raise Trouble(f"there is no cluster {self.context} ({trouble}): make one with `make {self.which}-up`") from None
        crds = self.kubectl("get", "crd", "--output", "name").split()
        troubles.check_mesh({one.rpartition("/")[2] for one in crds}, self.has("--namespace", "linkerd", "deployment/linkerd-destination"), self.which)
        secrets = self.kubectl("--namespace", NAMESPACE, "get", "secret", "--output", "name").split()
        troubles.check_secrets({one.rpartition("/")[2] for one in secrets}, self.which)

    def wait(self):
        """Until every pod is ready; what holds one up is said as soon as it is known, and again at the end."""
        said, end = [], time.monotonic() + PATIENCE
        while True:
            pods = json.loads(self.kubectl("--namespace", NAMESPACE, "get", "pods", "--output", "json"))["items"]
            found = troubles.of_pods(pods, self.last_words, self.which)
            for one in found:
                if one not in said:
                    print(f"  {one}", flush=True)
            said = found
            if pods and not found:
                return
            if time.monotonic() > end:
                raise Trouble("the pods did not get ready:\n  " + "\n  ".join(found or ["there are none: see `kubectl -n sagamesh get events`"]))
            time.sleep(2)

    def last_words(self, pod, container, previous=False):
        """The last line of a container's log."""
        extra = ["--previous"] if previous else []
        try:
            lines = self.kubectl("--namespace", NAMESPACE, "logs", pod, "--container", container, "--tail=1", *extra).strip()
        except Trouble:
            return ""
        return lines

    def order(self, sagamesh):
        """Places an order as a customer would, and waits for its end."""
        folder = self.keys()
        token = run(sagamesh, "token", "--data-dir", str(folder), "--sub", "alice").split()[-1]
        command = ["kubectl", "--context", self.context, "--namespace", NAMESPACE, "port-forward", "service/gateway", ":8080"]
        forward = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            port = re.search(r"127\.0\.0\.1:(\d+)", forward.stdout.readline() or "")
            if not port:
                raise Trouble("no port of the gateway could be forwarded: see `kubectl -n sagamesh get endpointslices`")
            return place(f"http://127.0.0.1:{port[1]}", token)
        finally:
            forward.terminate()
            forward.wait()


def place(gateway, token):
    """One order of the first item on the shelf."""

    def ask(path, body=None, headers=()):
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(gateway + path, data, {"authorization": f"Bearer {token}", "content-type": "application/json", **dict(headers)})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Trouble(f"the gateway answers {path} with {error.code}: {error.read().decode(errors='replace')[:500]}") from None
        except OSError as error:
            raise Trouble(f"the gateway does not answer {path}: {error}") from None

    items = [item for item in ask("/v1/items")["items"] if int(item["available"]) > 0]
    if not items:
        raise Trouble("nothing is in stock: restart inventory, which fills its shelves at its start (SAGAMESH_SEED_CATALOGUE)")
    body = {"lines": [{"sku": items[0]["sku"], "quantity": 1}], "payment_method": "pm_ok", "currency": "EUR"}
    order = ask("/v1/orders", body, {"prefer": "wait=20", "idempotency-key": str(uuid.uuid4())})
    if order["status"] != "CONFIRMED":
        raise Trouble(f"the order {order['order_id']} is {order['status']} and not CONFIRMED: docs/kubernetes.md says how to see its saga")
    return order["order_id"]


def look(context):
    """Where to look."""
    forward = f"kubectl --context {context} -n"
    print(f"""
  the shop      {forward} sagamesh port-forward service/gateway 8080    then http://127.0.0.1:8080/openapi.json
  dashboards    {forward} sagamesh-observability port-forward service/grafana 3000    then http://127.0.0.1:3000
  alerts        {forward} sagamesh-observability port-forward service/prometheus 9091:9090    then http://127.0.0.1:9091/alerts
  traces        {forward} sagamesh-observability port-forward service/jaeger 16686    then http://127.0.0.1:16686
  the mesh      linkerd --context {context} check --proxy -n sagamesh
  and then      docs/kubernetes.md""")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["check", "up", "load", "test", "down"])
    parser.add_argument("which", choices=["kind", "minikube"])
    parser.add_argument("--out", default="target/images", help="the folder of the images' archives")
    parser.add_argument("--sagamesh", default="target/dist/sagamesh", help="the command line, which makes tokens")
    arguments = parser.parse_args()
    cluster = Cluster(arguments.which, arguments.out)
    if arguments.action == "down":
        need(arguments.which)
        run(*(["kind", "delete", "cluster", "--name", NAME] if arguments.which == "kind" else ["minikube", "delete", "--profile", NAME]), capture=False)
        return
    if arguments.action == "load":
        need(arguments.which)
        cluster.load()
        return
    need("kubectl", arguments.which, "openssl", *([] if arguments.action == "test" else ["linkerd"]))
    if arguments.action == "check":
        return
    if not Path(arguments.sagamesh).exists():
        raise Trouble(f"there is no {arguments.sagamesh}, which makes tokens: run `make images` first")
    if arguments.action == "up":
        cluster.create()
        cluster.install_linkerd()
        cluster.load()
        cluster.deploy()
    cluster.preconditions()
    cluster.wait()
    print(f"every pod is ready; order {cluster.order(arguments.sagamesh)} was placed and is CONFIRMED")
    look(cluster.context)


if __name__ == "__main__":
    try:
        main()
    except Trouble as trouble:
        sys.exit(f"error: {trouble}")
    except KeyboardInterrupt:
        sys.exit(130)
