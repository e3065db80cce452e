"""The simulated cluster: a process that replays recorded timelines over TLS."""

import contextlib
import json
import subprocess
import urllib.request
from pathlib import Path

FIXTURES = Path(__file__).parents[1] / "fixtures"

# What the ClusterRole of infra/kubernetes gives.
GUIDE = (
    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]},
    {"apiGroups": ["helm.toolkit.fluxcd.io"], "resources": ["helmreleases"], "verbs": ["get"]},
)


class SimulatedCluster:
    """One API server with one token; `play` lets something happen on it."""

    def __init__(self, program: str, log: Path):
        self._process = subprocess.Popen(
            [program, "--fixtures", str(FIXTURES)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("w"), text=True,
        )
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the simulated cluster did not start:\n{log.read_text()}")
        ready = json.loads(line)
        self.api_url: str = ready["apiUrl"]
        self.ca_cert: str = ready["caCert"]
        # Of the CA that issued the certificate of the kind `otherIssuer`.
        self.other_ca_cert: str = ready["otherCaCert"]
        self.token: str = ready["token"]
        self.control_url: str = ready["controlUrl"].rstrip("/")

    def play(self, scenario: str, release: str, push_in_ms: int = 4000, speed: float = 1) -> str:
        """Replays a recording under another name, so many times as fast; answers when its push is."""
        return self._call("POST", "/play", {
            "scenario": scenario, "namespace": "e2e", "name": release, "pushInMs": push_in_ms, "speed": speed,
        })["pushedAt"]

    def accept(self, *tokens: str):
        """From now on these tokens are let in, and no other."""
        self._call("POST", "/tokens", {"accept": list(tokens)})

    def put(self, release: str, helm_release: dict):
        """From now on it has this HelmRelease."""
        self._call("PUT", f"/helmreleases/e2e/{release}", helm_release)

    def show(self, kind: str):
        """From now on it has another certificate: `good`, `expired`, `wrongName` or `otherIssuer`."""
        self._call("POST", "/certificate", {"kind": kind})

    def allow(self, *rules: dict):
        """From now on the account may do this, and nothing else; without any, what the guide gives it."""
        self._call("POST", "/rules", {"rules": list(rules or GUIDE)})

    def put_secret(self, namespace: str, name: str, data: dict[str, str]):
        """A secret that is none of Helm's."""
        self._call("PUT", f"/secrets/{namespace}/{name}", [
            {"metadata": {"name": name, "namespace": namespace}, "data": data}])

    @contextlib.contextmanager
    def fault(self, fault):
        """Something is wrong with it, for a while."""
        self._call("POST", "/faults", {"fault": fault})
        try:
            yield
        finally:
            self._call("DELETE", "/faults")

    def arm(self, fault, release: str, helm_type: str = "flux", times: int | None = 1):
        """Something is wrong with the next answers about a release; a plain one's are about all of its namespace."""
        path = f"/apis/helm.toolkit.fluxcd.io/v2/namespaces/e2e/helmreleases/{release}"
        if helm_type == "plain":
            path = "/api/v1/namespaces/e2e/secrets"
        self._call("POST", "/faults", {"fault": fault, "times": times, "path": path})

    def requests(self, release: str) -> list[dict]:
        """What was asked about a release."""
        return [it for it in self._call("GET", "/requests")["requests"] if release in it["pathAndQuery"]]

    def _call(self, method: str, path: str, body=None):
        request = urllib.request.Request(
            self.control_url + path, method=method, headers={"content-type": "application/json"},
            data=None if body is None else json.dumps(body).encode(),
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def stop(self):
        # It ends when nobody holds its input any more; so it can't outlive a test that was killed.
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
