"""What the scenarios act on: the cluster as its administrator and the guide see it, Helm, and the monitor's judgement."""

import contextlib
import http.client
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
from datetime import datetime, timezone
from pathlib import Path

from control_plane import PROGRAMS, dies_with_us

ROOT = Path(__file__).parents[2]
GUIDE = Path("infra/kubernetes")


class Cluster:
    """A cluster by an administrator's kubeconfig. What is made in it is removed by `clean`."""

    def __init__(self, folder: Path, kubeconfig: str):
        self.folder = folder
        self.namespace = f"dag-monitor-test-{os.getpid()}"
        self.env = os.environ | {
            "KUBECONFIG": str(kubeconfig), "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "KUBECACHEDIR": str(folder / "kubectl"), "HELM_CACHE_HOME": str(folder / "helm"),
            "HELM_CONFIG_HOME": str(folder / "helm"), "HELM_DATA_HOME": str(folder / "helm"),
        }
        self._undo: list[list[str]] = []
        # The guide is followed in a copy: its commands leave files behind.
        self.guide = folder / "guide"
        shutil.copytree(ROOT / GUIDE, self.guide / GUIDE)
        self.body = self.guide / "body.json"
        self._followed: Path | None = None

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        return self._run(["kubectl", *arguments], input=text)

    def create_namespace(self, name: str):
        self.kubectl("create", "namespace", name)
        self._undo.append(["delete", "namespace", name, "--wait=false"])

    def install(self, manifest: Path):
        """Applies it; where it is there already, somebody else's stays as it is."""
        if "created" in self.kubectl("apply", "--dry-run=server", "-f", str(manifest)):
            self.kubectl("apply", "--server-side", "-f", str(manifest))
            self._undo.append(["delete", "--ignore-not-found", "-f", str(manifest)])

    def refuse_if_in_use(self):
        if self.kubectl("get", "namespace", "dag-monitor", "--ignore-not-found"):
            raise RuntimeError("this cluster has a namespace dag-monitor: somebody is using the guide's account")

    def follow_guide(self, folder: Path = GUIDE) -> Path:
        """Runs the commands of its README, up to the request's body; `folder` is the variant that is applied, instead
        of the one before."""
        if self._followed:
            self._leave(self._followed)
        self._followed = folder
        blocks = self._commands()
        upto = next(n for n, block in enumerate(blocks) if "> body.json" in block)
        apply, self._extract = blocks[:upto], blocks[upto]
        assert [it.strip() for it in apply] == [f"kubectl apply -k {GUIDE}"], "the guide goes another way now"
        self._undo.append(["delete", "--ignore-not-found", "-k", str(self.guide / folder)])
        self._shell(apply[0].replace(str(GUIDE), str(folder)))
        return self._extracted()

    def change_token(self) -> Path:
        """Runs the guide's commands that make the old token void, and extracts the new one."""
        commands = self._commands("## Change the token")
        assert commands, "the guide has no commands under `Change the token`"
        self._shell(commands[0])
        return self._extracted()

    def _leave(self, folder: Path):
        # The namespace takes along what would be deleted next; and it must be gone before it is made again.
        self.kubectl("delete", "--ignore-not-found", "-k", str(self.guide / folder))
        self.kubectl("wait", "--for=delete", "namespace/dag-monitor", "--timeout=120s")

    def _commands(self, heading: str = "") -> list[str]:
        """The `sh` blocks of the guide, of one of its sections or of the whole."""
        text = (self.guide / GUIDE / "README.md").read_text()
        section = text[text.index(heading):].removeprefix(heading)
        return re.findall(r"^```sh\n(.*?)^```$", section.split("\n## ")[0] if heading else text, re.S | re.M)

    def _extracted(self) -> Path:
        # "The cluster fills it in within a second or two", says the guide.
        self.kubectl(
            "-n", "dag-monitor", "wait", "secret/dag-monitor-token", "--for=jsonpath={.data.token}", "--timeout=60s"
        )
        self._shell(self._extract)
        assert self.body.stat().st_mode & 0o77 == 0, "others can read the token"
        return self.body

    def clean(self):
        for arguments in reversed(self._undo):
            subprocess.run(["kubectl", *arguments], env=self.env, cwd=self.guide, capture_output=True)

    def allowed(self) -> str:
        """The address range of this very API server."""
        host = urllib.parse.urlsplit(json.loads(self.body.read_text())["apiUrl"]).hostname
        addresses = {it[4][0] for it in socket.getaddrinfo(host, None)}
        return ",".join(str(ipaddress.ip_network(it)) for it in sorted(addresses))

    def _shell(self, script: str):
        self._run(["bash", "-euo", "pipefail", "-c", script])

    def _run(self, command: list[str], **options) -> str:
        done = subprocess.run(command, env=self.env, cwd=self.guide, capture_output=True, text=True, **options)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout


class Admin:
    """The API server's own HTTP, as an administrator: for what kubectl would spoil, such as who wrote a field."""

    def __init__(self, cluster: Cluster):
        self._socket = str(cluster.folder / "proxy")
        self._process = subprocess.Popen(
            ["kubectl", "proxy", f"--unix-socket={self._socket}"], env=cluster.env, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=dies_with_us,
        )
        self._process.stdout.readline()

    def call(self, method: str, path: str, body=None) -> dict | None:
        """The answer; `None` where there is no such object."""
        connection = http.client.HTTPConnection("localhost", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(self._socket)
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"content-type": "application/json"})
        answer = connection.getresponse()
        came = answer.read()
        connection.close()
        if answer.status == 404:
            return None
        assert answer.status < 300, f"{method} {path}: {answer.status} {came[:2000]!r}"
        return json.loads(came)

    def stop(self):
        self._process.kill()
        self._process.wait()


class Judgement:
    """One deployment, judged live by the program of this folder with the body of the guide."""

    def __init__(self, cluster: Cluster, body: Path, request: dict | None):
        name = f"live-{request['deploymentId'] if request else 'register'}"
        self._log = cluster.folder / f"{name}.log"
        self._process = subprocess.Popen(
            [os.environ["CLUSTER_LIVE"], body, cluster.allowed()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log.open("w"), text=True,
        )
        self._process.stdin.write(json.dumps(request) if request else "")
        self._process.stdin.close()
        # It ends at its own deadline; this is for a bug that keeps it from doing so.
        self._guard = threading.Timer((request or {}).get("timeoutSecs", 300) + 120, self._process.kill)
        self._guard.daemon = True
        self._guard.start()
        self.registered = self._next()["registered"]
        self.last: dict | None = None

    def next_answer(self) -> dict:
        """Waits for the next check; a token that was changed meanwhile must have been taken."""
        while "answer" not in (line := self._next()):
            assert line["changed"]["status"] == 200, line
        self.last = line["answer"]
        return self.last

    def until(self, holds) -> dict:
        """Waits for an answer of which this is true."""
        while not holds(answer := self.next_answer()):
            assert answer["status"] == "pending", answer
        return answer

    @contextlib.contextmanager
    def paused(self):
        """Between two checks, for as long as something takes that must not be seen halfway."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def verdict(self) -> dict:
        while self.last is None or self.last["status"] == "pending":
            self.next_answer()
        self._guard.cancel()
        self._process.wait()
        return self.last

    def _next(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            self._guard.cancel()
            raise AssertionError(f"it ended without a verdict: {self._log.read_text()}")
        with self._log.open("a") as log:
            log.write(line)
        return json.loads(line)


class Release:
    """One Helm release, in the tests' namespace, by Helm 3 or Helm 4."""

    def __init__(self, cluster: Cluster, helm: str, name: str, namespace: str | None = None):
        self._cluster, self._helm = cluster, helm
        self.major = int(helm[-1])
        self.name = name
        self.namespace = namespace or cluster.namespace

    def install(self, version: str = "1.0.0", *flags: str, fails: bool = False):
        self._helm_does("install", self.name, self._chart(version), *flags, fails=fails)

    def upgrade(self, version: str = "1.1.0", *flags: str, fails: bool = False):
        self._helm_does("upgrade", self.name, self._chart(version), *flags, fails=fails)

    def rollback(self, revision: int):
        self._helm_does("rollback", self.name, str(revision))

    def uninstall(self, *flags: str):
        self._helm_does("uninstall", self.name, *flags)

    def upgrade_killed(self, revision: int):
        """Kills Helm once it has written the pending revision, while it waits for pods that no node will ever run."""
        with subprocess.Popen(
            self._command("upgrade", self.name, self._chart("1.1.0"), "--set=deployment=true", "--wait", "--timeout=300s"),
            env=self._cluster.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as process:
            secret = f"sh.helm.release.v1.{self.name}.v{revision}"
            while not self._cluster.kubectl("-n", self.namespace, "get", "secret", secret, "--ignore-not-found"):
                assert process.poll() is None, "Helm ended before it could be killed"
                time.sleep(0.1)
            process.send_signal(signal.SIGKILL)

    def judge(self, name: str = "", **request) -> Judgement:
        """Begins to judge what has happened since the last push, or what will."""
        return judge(self._cluster, self._cluster.body, self.name, self.namespace, "plain", suffix=name, **request)

    def _helm_does(self, *arguments: str, fails: bool = False):
        done = subprocess.run(self._command(*arguments), env=self._cluster.env, capture_output=True, text=True)
        assert (done.returncode != 0) == fails, f"{arguments}: {done.returncode} {done.stdout} {done.stderr}"
        return done.stderr

    def _command(self, *arguments: str) -> list[str]:
        return [self._helm, "--namespace", self.namespace, *arguments]

    def _chart(self, version: str) -> str:
        return str(self._cluster.folder / f"chart-{version}")


def judge(cluster, body, release, namespace, helm_type, suffix="", timeout=60, **request) -> Judgement:
    return Judgement(cluster, body, {
        "deploymentId": f"{release}{suffix}", "helmType": helm_type, "timeoutSecs": timeout,
        "targets": [{"cluster": json.loads(body.read_text())["name"], "namespace": namespace, "release": release}],
        **request,
    })


def next_second() -> str:
    """Waits for a whole second to begin. Stamps of Kubernetes are cut to it: what was there before has an earlier one."""
    this = time.time()
    time.sleep(1 - this % 1)
    return datetime.fromtimestamp(int(this) + 1, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
