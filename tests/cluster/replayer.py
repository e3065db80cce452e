"""The simulated cluster of the end-to-end tests, as the source of what a recording shows at each moment."""

import http.client
import json
import os
import ssl
import threading

from cluster import SimulatedCluster  # Of the end-to-end tests.


class Replayer(SimulatedCluster):
    def __init__(self, log):
        super().__init__(os.environ["CLUSTER_SIMULATED"], log)
        self._tls = ssl.create_default_context(cadata=self.ca_cert)
        self._connections = threading.local()

    def replay(self, recording: str, namespace: str, name: str, push_in_ms: int) -> str:
        """Begins to replay; answers when the push is."""
        return self._call("POST", "/play", {
            "scenario": recording, "namespace": namespace, "name": name, "pushInMs": push_in_ms,
        })["pushedAt"]

    def helm_release(self, namespace: str, name: str) -> dict | None:
        """What is shown now; `None`: no such object."""
        if not hasattr(self._connections, "mine"):
            host = self.api_url.removeprefix("https://")
            self._connections.mine = http.client.HTTPSConnection(host, context=self._tls, timeout=30)
        connection = self._connections.mine
        path = f"/apis/helm.toolkit.fluxcd.io/v2/namespaces/{namespace}/helmreleases/{name}"
        connection.request("GET", path, headers={"authorization": f"Bearer {self.token}"})
        answer = connection.getresponse()
        came = answer.read()
        assert answer.status in (200, 404), came
        return json.loads(came) if answer.status == 200 else None
