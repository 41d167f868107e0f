"""A real kube-apiserver on etcd, on the loopback, with nothing behind it: objects are judged and stored, and no pod runs.

Each `ApiServer` is a new cluster; they share one etcd.
"""

import contextlib
import json
import secrets
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request

PATIENCE = 120
APPLY = "application/apply-patch+yaml"


class Failed(Exception):
    """A server that does not start, in a sentence."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def process(name, command, folder, answers):
    """A child that runs until the end of the block, from when it answers."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    with log.open("w") as output:
        child = subprocess.Popen(list(map(str, command)), stdout=output, stderr=subprocess.STDOUT, cwd=folder)
    try:
        end = time.monotonic() + PATIENCE
        while not answers():
            if child.poll() is not None:
                lines = log.read_text().strip().splitlines()
                raise Failed(f"{name} ended with {child.returncode}: {lines[-1] if lines else 'it said nothing'} (all of it: {log})")
            if time.monotonic() > end:
                raise Failed(f"{name} does not answer within {PATIENCE} s: {log} says why")
            time.sleep(0.1)
        yield
    finally:
        # Nothing that it stores is needed any more.
        child.kill()
        child.wait()


@contextlib.contextmanager
def etcd(program, folder):
    """The address of an etcd with an empty store."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    peer = f"http://127.0.0.1:{free_port()}"

    def answers():
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return json.load(answer).get("health") in ("true", True)

    command = [program, "--data-dir", folder / "etcd", "--listen-client-urls", url, "--advertise-client-urls", url]
    command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
    command += ["--unsafe-no-fsync"]
    with process("etcd", command, folder, answers):
        yield url


class ApiServer:
    """A cluster's API, asked as its administrator."""

    def __init__(self, folder, port):
        self.folder, self.url, self.token = folder, f"https://127.0.0.1:{port}", secrets.token_hex(16)
        # Made by the server itself at its start.
        self.certificate = folder / "certificates/apiserver.crt"
        self.kinds = {}

    def ask(self, method, path, body=None, content="application/json"):
        """The status, the answer, and the server's warnings."""
        context = ssl.create_default_context(cafile=self.certificate)
        data = None if body is None else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {self.token}", "content-type": content}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            answer = urllib.request.urlopen(request, timeout=60, context=context)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            text = answer.read().decode()
            warnings = [one.split(" ", 2)[2].strip('"') for one in answer.headers.get_all("Warning", [])]
            return answer.status, json.loads(text) if text.startswith("{") else text, warnings

    def ready(self):
        with contextlib.suppress(OSError):
            return self.ask("GET", "/readyz")[0] == 200

    def knows(self, one):
        """Until a kind that was just defined can be used."""
        spec = one["spec"]
        for version in (each["name"] for each in spec["versions"] if each["served"]):
            end = time.monotonic() + PATIENCE
            while self.ask("GET", f"/apis/{spec['group']}/{version}/{spec['names']['plural']}")[0] != 200:
                if time.monotonic() > end:
                    raise Failed(f"{one['metadata']['name']} {version} is not served: {self.ask('GET', self.path(one) + '/' + one['metadata']['name'])}")
                time.sleep(0.1)

    def path(self, one):
        """Where a resource is."""
        group, kind = one["apiVersion"], one["kind"]
        if (group, kind) not in self.kinds:
            root = f"/api/{group}" if "/" not in group else f"/apis/{group}"
            status, found, _ = self.ask("GET", root)
            resources = found["resources"] if status == 200 else []
            self.kinds |= {(group, each["kind"]): (root, each["name"], each["namespaced"]) for each in resources if "/" not in each["name"]}
        if (group, kind) not in self.kinds:
            raise Failed(f"the server knows no {kind} of {group}")
        root, plural, namespaced = self.kinds[group, kind]
        return f"{root}/namespaces/{one['metadata'].get('namespace', 'default')}/{plural}" if namespaced else f"{root}/{plural}"

    def get(self, one):
        """The resource as it is stored."""
        status, answer, _ = self.ask("GET", f"{self.path(one)}/{one['metadata']['name']}")
        if status != 200:
            raise Failed(f"{one['kind']} {one['metadata']['name']} is not there: {answer}")
        return answer

    def apply(self, one, dry_run=False):
        """Server-side apply with unknown and repeated fields as errors; what the server has to say against it."""
        query = "?fieldManager=verify&fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
        return self.said(one, *self.ask("PATCH", f"{self.path(one)}/{one['metadata']['name']}{query}", one, APPLY))

    def create(self, one, dry_run=False):
        """The same for a new resource, as a controller would make it."""
        query = "?fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
        return self.said(one, *self.ask("POST", self.path(one) + query, one))

    @staticmethod
    def said(one, status, answer, warnings):
        name = f"{one['kind']} {one['metadata']['name']}"
        found = [f"{name}: warning: {warning}" for warning in warnings]
        if status >= 300:
            found.append(f"{name}: {status}: {answer['message'] if isinstance(answer, dict) else answer}")
        return found

    def kubeconfig(self, context):
        """A file by which kubectl finds this cluster under that name."""
        file = self.folder / f"{context}.kubeconfig"
        cluster = {"server": self.url, "certificate-authority": str(self.certificate)}
        found = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": context, "cluster": cluster}],
            "users": [{"name": context, "user": {"token": self.token}}],
            "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
            "current-context": context,
        }
        file.write_text(json.dumps(found))
        file.chmod(0o600)
        return file


@contextlib.contextmanager
def apiserver(program, store, folder):
    """A new cluster in that etcd."""
    folder.mkdir(parents=True)
    server = ApiServer(folder, free_port())
    tokens, key = folder / "tokens.csv", folder / "accounts.pem"
    tokens.touch(0o600)
    tokens.write_text(f'{server.token},administrator,1,"system:masters"\n')
    generate = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", key]
    made = subprocess.run(generate, capture_output=True, text=True)
    if made.returncode:
        raise Failed(f"openssl cannot make a key: {made.stderr.strip().splitlines()[-1]}")
    command = [program, f"--etcd-servers={store}", f"--etcd-prefix=/{folder.name}", "--bind-address=127.0.0.1"]
    command += [f"--secure-port={server.url.rpartition(':')[2]}", f"--cert-dir={folder / 'certificates'}", f"--token-auth-file={tokens}"]
    command += ["--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16", "--endpoint-reconciler-type=none"]
    command += [f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}", "--service-account-issuer=https://sagamesh.test"]
    with process("kube-apiserver", command, folder, server.ready):
        yield server
