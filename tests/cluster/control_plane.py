"""A Kubernetes control plane on the loopback interface: etcd, API server, controller manager. No node: a pod stays pending."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

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


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class ControlPlane:
    """Its logs and keys are in `folder`; `kubeconfig` is an administrator's."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._processes: list[subprocess.Popen] = []
        self.kubeconfig = folder / "kubeconfig"

    def start(self):
        subprocess.run(
            ["sh", "-euc", CERTIFICATES], cwd=self._folder, check=True, stderr=(self._folder / "openssl.log").open("w")
        )
        client, peer, server = free_port(), free_port(), free_port()
        self._write_kubeconfig(f"https://127.0.0.1:{server}")
        self._run("etcd", {
            "data-dir": "etcd", "unsafe-no-fsync": "true", "log-level": "warn",
            "listen-client-urls": f"http://127.0.0.1:{client}", "advertise-client-urls": f"http://127.0.0.1:{client}",
            "listen-peer-urls": f"http://127.0.0.1:{peer}", "initial-advertise-peer-urls": f"http://127.0.0.1:{peer}",
            "initial-cluster": f"default=http://127.0.0.1:{peer}",
        })
        self._run("kube-apiserver", {
            "etcd-servers": f"http://127.0.0.1:{client}", "bind-address": "127.0.0.1", "secure-port": server,
            "advertise-address": "127.0.0.1", "endpoint-reconciler-type": "none",
            "tls-cert-file": "server.crt", "tls-private-key-file": "server.key", "client-ca-file": "ca.crt",
            "authorization-mode": "RBAC", "service-cluster-ip-range": "10.0.0.0/24",
            "service-account-issuer": "https://kubernetes.default.svc", "service-account-key-file": "accounts.key",
            "service-account-signing-key-file": "accounts.key", "cert-dir": "apiserver",
        })
        self._wait_until_ready()
        self._run("kube-controller-manager", {
            "kubeconfig": "kubeconfig", "service-account-private-key-file": "accounts.key", "root-ca-file": "ca.crt",
            "leader-elect": "false", "bind-address": "127.0.0.1", "secure-port": free_port(),
            "cert-dir": "controller-manager",
        })

    def stop(self):
        # The last one started goes first, so that nobody complains of who is gone already.
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _run(self, program: str, flags: dict):
        # In a session of its own: Ctrl-C is for the tests, which then stop it in order.
        self._processes.append(subprocess.Popen(
            [PROGRAMS / program, *(f"--{name}={value}" for name, value in flags.items())], cwd=self._folder,
            stdout=(self._folder / f"{program}.log").open("w"), stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=dies_with_us,
        ))

    def _wait_until_ready(self):
        ready = [PROGRAMS / "kubectl", "--kubeconfig", self.kubeconfig, "get", "--raw", "/readyz"]
        end = time.monotonic() + 180
        while subprocess.run(ready, capture_output=True).returncode != 0:
            ended = [it.args[0].name for it in self._processes if it.poll() is not None]
            if ended or time.monotonic() > end:
                raise RuntimeError(f"the control plane did not start ({ended or 'too slow'}); see {self._folder}")
            time.sleep(0.5)

    def _write_kubeconfig(self, server: str):
        self.kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": "ca.crt"}}],
            "users": [{"name": "admin", "user": {"client-certificate": "admin.crt", "client-key": "admin.key"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        }))
