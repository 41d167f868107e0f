"""The Secrets of a cluster on one's own machine: passwords of the databases, and the key that signs development tokens."""

import base64
import json
import secrets as randomness
import uuid

NAMESPACE = "sagamesh"
WITH_DATABASE = ["coordinator", "orders", "inventory", "payments", "notifications"]


def secret(name, values):
    """A Secret as `kubectl apply` takes it."""
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "stringData": values}


def secrets(stored, keys):
    """All of them. `stored` are the passwords in the cluster (base64), which the database was made with; without, new ones."""
    if stored:
        passwords = {name: base64.b64decode(value).decode() for name, value in stored.items()}
    else:
        passwords = {name: randomness.token_hex(24) for name in ["postgres", *WITH_DATABASE]}
    made = [secret("postgres-passwords", passwords), secret("gateway-jwks", {"jwks.json": (keys / "jwks.json").read_text()})]
    for name in WITH_DATABASE:
        made.append(secret(f"{name}-database", {"url": f"postgres://{name}:{passwords[name]}@postgres:5432/{name}"}))
    return made


def make(folder, run):
    """An EC key, as `sagamesh token` reads it, and its public half, as the gateway does; both stay once they are there."""
    private, public = folder / "dev-signing-key.pem", folder / "jwks.json"
    if private.exists() and public.exists():
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(private))
    private.chmod(0o600)
    # The last 64 bytes of the public key are the point: x and y.
    pem = run("openssl", "pkey", "-in", str(private), "-pubout")
    point = base64.b64decode("".join(pem.splitlines()[1:-1]))[-64:]
    coordinate = lambda part: base64.urlsafe_b64encode(part).decode().rstrip("=")
    key = {"kty": "EC", "crv": "P-256", "x": coordinate(point[:32]), "y": coordinate(point[32:]), "kid": str(uuid.uuid4()), "alg": "ES256", "use": "sig"}
    public.write_text(json.dumps({"keys": [key]}))
