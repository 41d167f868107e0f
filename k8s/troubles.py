"""What can be wrong with the system in a cluster, in sentences that say what happened and what to do. Reads, and asks nobody."""

from keys import WITH_DATABASE

GATEWAY_API = ["grpcroutes.gateway.networking.k8s.io", "httproutes.gateway.networking.k8s.io"]
LINKERD = ["servers.policy.linkerd.io", "authorizationpolicies.policy.linkerd.io", "httplocalratelimitpolicies.policy.linkerd.io"]
SECRETS = ["postgres-passwords", "gateway-jwks", *(f"{name}-database" for name in WITH_DATABASE)]
IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")


class Trouble(Exception):
    """A sentence for the person at the terminal."""


def check_mesh(crds, linkerd_runs, which):
    """Whether the cluster knows the kinds that mesh/policy is written in, and who enforces them."""
    if missing := [name for name in GATEWAY_API if name not in crds]:
        raise Trouble(f"the Gateway API is not installed ({', '.join(missing)}): `make {which}-up` installs it")
    if missing := [name for name in LINKERD if name not in crds]:
        raise Trouble(f"Linkerd's kinds are missing, or too old ({', '.join(missing)}): `linkerd install --crds | kubectl apply -f -`, or `make {which}-up`")
    if not linkerd_runs:
        raise Trouble(f"the cluster has no Linkerd, so nobody would enforce mesh/policy: `make {which}-up` installs it")


def check_secrets(there, which):
    """Whether the Secrets that pods name are there."""
    if missing := [name for name in SECRETS if name not in there]:
        raise Trouble(f"these Secrets are missing in the namespace sagamesh: {', '.join(missing)}. `make {which}-up` makes them; docs/kubernetes.md says what is in them")


def of_pods(pods, last_words, which):
    """A sentence for each pod that is not ready."""
    found = []
    for pod in pods:
        if pod["metadata"].get("deletionTimestamp") or pod["status"].get("phase") == "Succeeded":
            continue
        if sentence := of_pod(pod, last_words, which):
            found.append(f"{pod['metadata']['name']}: {sentence}")
    return found


def of_pod(pod, last_words, which):
    """What holds a pod up; None when it is ready."""
    status, name = pod["status"], pod["metadata"]["name"]
    conditions = {one["type"]: one for one in status.get("conditions", [])}
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return f"no node takes it ({scheduled.get('message', 'no reason given')}): give the cluster more nodes, memory or disks"
    inits = status.get("initContainerStatuses", [])
    for container in [*inits, *status.get("containerStatuses", [])]:
        state, before = container.get("state", {}), container.get("lastState", {}).get("terminated", {})
        waiting = state.get("waiting", {})
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason in IMAGE:
            return f"its image {container['image']} cannot be had: is the name right, and was it loaded? `make {which}-load` loads what `make images` built ({message})"
        if reason == "CreateContainerConfigError":
            return f"something that it names is missing ({message}): make that Secret or ConfigMap; docs/kubernetes.md says what is in it"
        if before.get("reason") == "OOMKilled":
            return f"{container['name']} was ended at its memory limit: raise it in k8s/base, and look for what takes so much"
        if reason == "CrashLoopBackOff":
            words = last_words(name, container["name"], previous=True)
            return f"{container['name']} ends again and again: {words or message}"
        if container["name"] == "wait-for-database" and "running" in state:
            return f"it waits for its database: {last_words(name, container['name']) or 'no answer yet'}"
    if conditions.get("Ready", {}).get("status") == "True":
        meshed = "linkerd-proxy" in [one["name"] for one in [*inits, *status.get("containerStatuses", [])]]
        if not meshed and pod["metadata"].get("annotations", {}).get("linkerd.io/inject") != "disabled":
            return f"it runs outside of the mesh: Linkerd's injector did not see it start; `kubectl -n sagamesh delete pod {name}`"
        return None
    return f"not ready yet: `kubectl -n sagamesh describe pod {name}` and `kubectl -n sagamesh logs {name} -c service` say more"
