"""Consul's Python client (PyPI: py-consul), unchanged, on the registry at HOST PORT: registers a service with an HTTP check,
finds it while it is healthy, follows it with blocking queries, and deregisters it."""

import http.server
import sys
import threading

import consul

HOST, PORT = sys.argv[1], int(sys.argv[2])
WAIT = "10s"
LOOKS = 20


class Healthy(http.server.BaseHTTPRequestHandler):
    """A service whose health can be switched."""

    status = 200

    def do_GET(self):
        self.send_response(Healthy.status)
        self.end_headers()

    def log_message(self, *_):
        pass


def passing(registry, count):
    """Follows the service until so many instances pass; each look waits for a change."""
    index = None
    for _ in range(LOOKS):
        index, found = registry.health.service("web", passing=True, index=index, wait=WAIT)
        if len(found) == count:
            return found
    raise SystemExit(f"web has {len(found)} passing instances, not {count}")


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
threading.Thread(target=server.serve_forever, daemon=True).start()
port = server.server_address[1]

registry = consul.Consul(host=HOST, port=PORT)
check = consul.Check.http(f"http://127.0.0.1:{port}/", interval="100ms", timeout="1s")
assert registry.agent.service.register(
    "web", service_id="web-1", address="127.0.0.1", port=port, tags=["blue"], check=check
)

found = passing(registry, 1)[0]["Service"]
assert (found["ID"], found["Port"], found["Tags"]) == ("web-1", port, ["blue"]), found
assert registry.catalog.services()[1]["web"] == ["blue"]
assert "web-1" in registry.agent.services()
assert len(registry.health.service("orders", passing=True)[1]) == 1

Healthy.status = 503
passing(registry, 0)
assert len(registry.health.service("web")[1]) == 1, "an unhealthy instance is still registered"
Healthy.status = 200
passing(registry, 1)

assert registry.agent.service.deregister("web-1")
passing(registry, 0)
assert "web" not in registry.catalog.services()[1]
print("registered, found, followed, deregistered")
