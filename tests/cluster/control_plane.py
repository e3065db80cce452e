"""A Kubernetes control plane on the loopback interface: etcd, API server, controller manager. No node: a pod stays pending."""

import base64
import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from datetime import datetime, timedelta
from pathlib import Path

# As Kubernetes writes a time.
STAMP = "%Y-%m-%dT%H:%M:%SZ"
ISSUER = "https://kubernetes.default.svc"
PROGRAMS = Path(os.environ["CLUSTER_PROGRAMS"])
CERTIFICATES = """
key="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
openssl req -x509 $key -keyout ca.key -out ca.crt -subj /CN=kubernetes-ca
openssl req -x509 $key -CA ca.crt -CAkey ca.key -keyout server.key -out server.crt -subj /CN=kube-apiserver \
  -addext subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:kubernetes -addext basicConstraints=critical,CA:FALSE
openssl req -x509 $key -CA ca.crt -CAkey ca.key -keyout admin.key -out admin.crt -subj /O=system:masters/CN=admin \
  -addext extendedKeyUsage=clientAuth -addext basicConstraints=critical,CA:FALSE
openssl genrsa -out accounts.key 2048
"""


def dies_with_us():
    """A test that is killed leaves nothing behind (Linux; elsewhere `stop` has to be enough)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def free_ports(count: int) -> list[int]:
    # Held all at once, so that none comes twice.
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for it in taken:
            it.bind(("127.0.0.1", 0))
        return [it.getsockname()[1] for it in taken]


class ControlPlane:
    """Its logs and keys are in `folder`; `kubeconfig` is an administrator's."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._processes: dict[str, subprocess.Popen] = {}
        self.kubeconfig = folder / "kubeconfig"
        self.accounts_key = folder / "accounts.key"
        client, peer, server, manager = free_ports(4)
        self._server = f"https://127.0.0.1:{server}"
        self._etcd, peer = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
        # In the order of their starts.
        self._flags = {
            "etcd": {
                "data-dir": "etcd", "unsafe-no-fsync": "true", "log-level": "warn",
                "listen-client-urls": self._etcd, "advertise-client-urls": self._etcd,
                "listen-peer-urls": peer, "initial-advertise-peer-urls": peer, "initial-cluster": f"default={peer}",
            },
            "kube-apiserver": {
                "etcd-servers": self._etcd, "bind-address": "127.0.0.1", "secure-port": server,
                "advertise-address": "127.0.0.1", "endpoint-reconciler-type": "none",
                "tls-cert-file": "server.crt", "tls-private-key-file": "server.key", "client-ca-file": "ca.crt",
                "authorization-mode": "RBAC", "service-cluster-ip-range": "10.0.0.0/24",
                "service-account-issuer": ISSUER, "service-account-key-file": "accounts.key",
                "service-account-signing-key-file": "accounts.key", "cert-dir": "apiserver",
                # So that `age` can read what is stored.
                "storage-media-type": "application/json",
            },
            "kube-controller-manager": {
                "kubeconfig": "kubeconfig", "service-account-private-key-file": "accounts.key",
                "root-ca-file": "ca.crt", "leader-elect": "false", "bind-address": "127.0.0.1", "secure-port": manager,
                "cert-dir": "controller-manager",
            },
        }

    def start(self):
        subprocess.run(
            ["sh", "-euc", CERTIFICATES], cwd=self._folder, check=True, stderr=(self._folder / "openssl.log").open("w")
        )
        self._write_kubeconfig()
        self.run("etcd")
        self.run("kube-apiserver")
        self.wait_until_ready()
        self.run("kube-controller-manager")

    def stop(self):
        # The last one started goes first, so that nobody complains of who is gone already.
        for program in reversed(self._flags):
            if process := self._processes.get(program):
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def run(self, program: str):
        """Starts it, or starts it anew, with the same data on the same port."""
        # In a session of its own: Ctrl-C is for the tests, which then stop it in order.
        self._processes[program] = subprocess.Popen(
            [PROGRAMS / program, *(f"--{name}={value}" for name, value in self._flags[program].items())],
            cwd=self._folder, stdout=(self._folder / f"{program}.log").open("a"), stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=dies_with_us,
        )

    def kill(self, program: str):
        """As a crash would."""
        self._processes[program].kill()
        self._processes[program].wait()

    def wait_until_ready(self):
        ready = [PROGRAMS / "kubectl", "--kubeconfig", self.kubeconfig, "get", "--raw", "/readyz"]
        end = time.monotonic() + 180
        while subprocess.run(ready, capture_output=True).returncode != 0:
            ended = [name for name, it in self._processes.items() if it.poll() is not None]
            if ended or time.monotonic() > end:
                raise RuntimeError(f"the control plane did not start ({ended or 'too slow'}); see {self._folder}")
            time.sleep(0.5)

    def age(self, resource: str, namespace: str, name: str, by: timedelta):
        """Makes an object older, where it is stored: no API does that."""
        key = base64.b64encode(f"/registry/{resource}/{namespace}/{name}".encode()).decode()
        stored = self._ask_etcd("range", {"key": key})["kvs"][0]["value"]
        thing = json.loads(base64.b64decode(stored))
        created = datetime.strptime(thing["metadata"]["creationTimestamp"], STAMP) - by
        thing["metadata"]["creationTimestamp"] = created.strftime(STAMP)
        self._ask_etcd("put", {"key": key, "value": base64.b64encode(json.dumps(thing).encode()).decode()})

    def _ask_etcd(self, what: str, body: dict) -> dict:
        request = urllib.request.Request(f"{self._etcd}/v3/kv/{what}", json.dumps(body).encode())
        # Whatever proxy is set, this is on this machine.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
            return json.load(answer)

    def _write_kubeconfig(self):
        self.kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self._server, "certificate-authority": "ca.crt"}}],
            "users": [{"name": "admin", "user": {"client-certificate": "admin.crt", "client-key": "admin.key"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        }))
