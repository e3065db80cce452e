"""What the scenarios act on: the cluster as its administrator and the guide see it, Helm, and the monitor's judgement."""

import contextlib
import http.client
import ipaddress
import json
import os
import pty
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

from control_plane import PROGRAMS, STAMP, ControlPlane, dies_with_us

ROOT = Path(__file__).parents[2]
GUIDE = Path("infra/kubernetes")
# How long what the cluster does by itself may take, in seconds, until the test is given up.
PATIENCE = 120


class Cluster:
    """A cluster by an administrator's kubeconfig. What is made in it is removed by `clean`."""

    def __init__(self, folder: Path, kubeconfig: str, control_plane: ControlPlane | None):
        self.folder = folder
        # `None`: it is not ours, so it is not killed, aged or given forged tokens.
        self.control_plane = control_plane
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

    def create(self, kind: str, name: str, *flags: str):
        """Something that belongs to no namespace."""
        self.kubectl("create", kind, name, *flags)
        self._undo.append(["delete", kind, name, "--ignore-not-found", "--wait=false"])

    def may(self, account: str, verb: str, resource: str) -> bool:
        """Whether an account may do this in every namespace, as the API server sees it now."""
        asked = ["kubectl", "auth", "can-i", "--all-namespaces", verb, resource, *account.split()]
        said = subprocess.run(asked, env=self.env, capture_output=True, text=True).stdout.strip()
        assert said in ("yes", "no"), said
        return said == "yes"

    def install(self, manifest: Path):
        """Applies it; where it is there already, somebody else's stays as it is."""
        if "created" in self.kubectl("apply", "--dry-run=server", "-f", str(manifest)):
            self.kubectl("apply", "--server-side", "-f", str(manifest))
            self._undo.append(["delete", "--ignore-not-found", "-f", str(manifest)])

    def refuse_if_in_use(self):
        if self.kubectl("get", "namespace", "dag-monitor", "--ignore-not-found"):
            raise RuntimeError("this cluster has a namespace dag-monitor: somebody is using the guide's account")

    def follow_guide(self, folder: Path = GUIDE, registers: bool = True) -> Path:
        """Runs the commands of its README, up to the request's body; `folder` is the variant that is applied, instead
        of the one before. Where it has no service account, it is not registered."""
        if self._followed:
            self._leave(self._followed)
        self._followed = folder
        blocks = self._commands()
        upto = next(n for n, block in enumerate(blocks) if "> body.json" in block)
        apply, self._extract = blocks[:upto], blocks[upto]
        assert [it.strip() for it in apply] == [f"kubectl apply -k {GUIDE}"], "the guide goes another way now"
        self._undo.append(["delete", "--ignore-not-found", "-k", str(self.guide / folder)])
        self._shell(apply[0].replace(str(GUIDE), str(folder)))
        return self._extracted() if registers else self.body

    def register_anew(self, command: list[str], **env: str) -> tuple[int, str, str]:
        """Takes away what the guide applied, and lets a command make it again, as a person who says yes; its code, what
        it printed, and what it said at the terminal."""
        self._leave(self._followed)
        self._followed = GUIDE
        done = self.at_terminal(command, "y", **env)
        self._extracted()
        return done

    def at_terminal(self, command: list[str], answer: str, **env: str) -> tuple[int, str, str]:
        """Runs a command, and answers its question."""
        ours, its = pty.openpty()
        process = subprocess.Popen(
            command, env=self.env | {"NO_PROXY": "*"} | env, stdin=its, stderr=its, stdout=subprocess.PIPE, text=True)
        os.close(its)
        said = b""
        # The terminal ends with the process.
        with contextlib.suppress(OSError):
            while b"[y/N] " not in said:
                said += os.read(ours, 4096)
            os.write(ours, f"{answer}\n".encode())
            while more := os.read(ours, 4096):
                said += more
        os.close(ours)
        printed = process.stdout.read()
        return process.wait(), printed, said.decode()

    def change_token(self) -> Path:
        """Runs the guide's commands that make the old token void, and extracts the new one."""
        commands = self._commands("## Change the token")
        assert commands, "the guide has no commands under `Change the token`"
        self._shell(commands[0])
        return self._extracted()

    def send(self, folder: Path, **env: str) -> str:
        """Runs the guide's command that sends the request's body, the one in `folder`; what it prints."""
        command = next(it for it in self._commands("## Register it") if "curl " in it)
        return self._shell(command, cwd=folder, env=self.env | {"NO_PROXY": "*"} | env)

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

    def _shell(self, script: str, **options) -> str:
        return self._run(["bash", "-euo", "pipefail", "-c", script], **options)

    def _run(self, command: list[str], **options) -> str:
        options = {"env": self.env, "cwd": self.guide, "capture_output": True, "text": True} | options
        done = subprocess.run(command, **options)
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


class Program:
    """The program of this folder, with a body of the guide. What it says goes into a log, too."""

    running: set[subprocess.Popen] = set()

    def __init__(self, cluster: Cluster, body: Path, name: str, limit: float, *mode: str):
        self._log = cluster.folder / f"live-{name}.log"
        self._process = subprocess.Popen(
            [os.environ["CLUSTER_LIVE"], body, cluster.allowed(), *mode],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log.open("w"), text=True,
        )
        self.running.add(self._process)
        # For a bug that keeps it from ending.
        self._guard = threading.Timer(limit, self._process.kill)
        self._guard.daemon = True
        self._guard.start()

    def _next(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            self._ended()
            raise AssertionError(f"it ended without a verdict: {self._log.read_text()}")
        with self._log.open("a") as log:
            log.write(line)
        return json.loads(line)

    def _next_answer(self) -> dict:
        """Of the next check; a token that was changed meanwhile must have been taken."""
        while "answer" not in (line := self._next()):
            assert line["changed"]["status"] == 200, line
        return line["answer"]

    def _ended(self):
        self._guard.cancel()
        self._process.wait()
        self.running.discard(self._process)


class Judgement(Program):
    """Deployments, judged live side by side; without any the cluster is registered only."""

    def __init__(self, cluster: Cluster, body: Path, *requests: dict):
        name = requests[0]["deploymentId"] if requests else "register"
        # It ends at its last deadline.
        super().__init__(cluster, body, name, max((it["timeoutSecs"] for it in requests), default=0) + PATIENCE)
        self._process.stdin.write("".join(f"{json.dumps(it)}\n" for it in requests))
        self._process.stdin.close()
        self.registered = self._next()["registered"]
        # Of each deployment.
        self.last: dict[str, dict | None] = {it["deploymentId"]: None for it in requests}
        if not requests:
            self._ended()

    def next_answer(self) -> dict:
        """Waits for the next check."""
        answer = self._next_answer()
        self.last[answer["deploymentId"]] = answer
        return answer

    def first_answers(self) -> list[dict]:
        return [self.next_answer() for _ in self.last]

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

    def verdicts(self) -> list[dict]:
        while any(it is None or it["status"] == "pending" for it in self.last.values()):
            self.next_answer()
        self._ended()
        return list(self.last.values())

    def verdict(self) -> dict:
        [verdict] = self.verdicts()
        return verdict


class Hand(Program):
    """Checks deployments when it is told to, each check five seconds later than the one before by its own clock."""

    # Its clock runs ahead of the cluster's: nothing may be called new because of its time.
    NEVER = "2099-01-01T00:00:00Z"

    def __init__(self, cluster: Cluster, body: Path, name: str):
        super().__init__(cluster, body, f"{name}-by-hand", 600, "by-hand")
        registered = self._next()["registered"]
        assert registered["status"] == 201, registered

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._ended()

    def check(self, request: dict) -> dict:
        """Again where a busy machine kept the cluster from answering in time."""
        for _ in range(5):
            if (answer := self.look(request))["reason"] not in ("ClusterSlow", "ClusterUnreachable"):
                break
        return answer

    def look(self, request: dict) -> dict:
        self._process.stdin.write(json.dumps(request | {"pushedAt": self.NEVER}) + "\n")
        self._process.stdin.flush()
        return self._next_answer()

    def verdict(self, request: dict) -> dict:
        while (answer := self.check(request))["status"] == "pending":
            pass
        return answer


class Release:
    """One Helm release, in the tests' namespace, by Helm 3 or Helm 4."""

    def __init__(self, cluster: Cluster, helm: str, name: str, namespace: str | None = None):
        self.cluster, self._helm = cluster, helm
        self.major = int(helm[-1])
        self.name = name
        self.namespace = namespace or cluster.namespace

    def install(self, version: str = "1.0.0", *flags: str, fails: bool = False):
        self._helm_does("install", self.name, self._chart(version), *flags, fails=fails)

    def upgrade(self, version: str = "1.1.0", *flags: str, fails: bool = False):
        self._helm_does("upgrade", self.name, self._chart(version), *flags, fails=fails)

    def rollback(self, revision: int):
        self._helm_does("rollback", self.name, str(revision))

    def revisions(self) -> list[int]:
        """Those that are stored."""
        selector = f"owner=helm,name={self.name}"
        said = self.cluster.kubectl("-n", self.namespace, "get", "secrets", "-l", selector, "-o", "json")
        return sorted(int(it["metadata"]["labels"]["version"]) for it in json.loads(said)["items"])

    def uninstall(self, *flags: str):
        self._helm_does("uninstall", self.name, *flags)

    def killed(self, action: str, revision: int):
        """Kills Helm once it has written the pending revision, while it waits for pods that no node will ever run."""
        with self.running(action, revision) as process:
            process.send_signal(signal.SIGKILL)

    @contextlib.contextmanager
    def running(self, action: str, revision: int, *flags: str):
        """Helm, once it has written the revision; it waits for pods that no node will ever run. Waits for its end."""
        waiting = ("--set=deployment=true", "--wait", *(flags or ("--timeout=300s",)))
        with subprocess.Popen(
            self._command(action, self.name, self._chart("1.1.0"), *waiting),
            env=self.cluster.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as process:
            while revision not in self.revisions():
                assert process.poll() is None, "Helm ended before it had written anything"
                time.sleep(0.2)
            yield process
            process.wait()

    def request(self, suffix: str = "", **request) -> dict:
        return deployment(self.cluster.body, self.name, self.namespace, "plain", suffix, **request)

    def judge(self, *requests: dict) -> Judgement:
        """Begins to judge what has happened since the last push, or what will."""
        return Judgement(self.cluster, self.cluster.body, *(requests or [self.request()]))

    def by_hand(self) -> Hand:
        return Hand(self.cluster, self.cluster.body, self.name)

    def _helm_does(self, *arguments: str, fails: bool = False):
        done = subprocess.run(self._command(*arguments), env=self.cluster.env, capture_output=True, text=True)
        assert (done.returncode != 0) == fails, f"{arguments}: {done.returncode} {done.stdout} {done.stderr}"
        return done.stderr

    def _command(self, *arguments: str) -> list[str]:
        return [self._helm, "--namespace", self.namespace, *arguments]

    def _chart(self, version: str) -> str:
        return str(self.cluster.folder / f"chart-{version}")


class Account:
    """A service account with the guide's rights, of a scenario's own: what befalls it concerns nobody else."""

    def __init__(self, cluster: Cluster, name: str):
        self._cluster, self._name = cluster, name
        self._binding = f"{cluster.namespace}-{name}"
        cluster.kubectl("-n", cluster.namespace, "create", "serviceaccount", name)
        self.user = f"system:serviceaccount:{cluster.namespace}:{name}"
        self.allow()

    def allow(self):
        self._cluster.create(
            "clusterrolebinding", self._binding, "--clusterrole=dag-monitor",
            f"--serviceaccount={self._cluster.namespace}:{self._name}",
        )
        self._settled(True)

    def forbid(self):
        self._cluster.kubectl("delete", "clusterrolebinding", self._binding)
        self._settled(False)

    def token(self, *flags: str) -> str:
        return self._cluster.kubectl("-n", self._cluster.namespace, "create", "token", self._name, *flags).strip()

    def body(self, token: str | None = None) -> Path:
        """The guide's, with a token of this account."""
        there = self._cluster.folder / f"{self._name}-body.json"
        body = json.loads(self._cluster.body.read_text()) | {"serviceAccountToken": token or self.token()}
        there.write_text(json.dumps(body))
        return there

    def _settled(self, allowed: bool):
        eventually(lambda: self._cluster.may(f"--as={self.user}", "list", "secrets") == allowed)


def eventually(holds):
    """Waits for what the cluster does by itself."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.5)


def refused(cluster: Cluster, body: Path) -> dict | None:
    """What the probe says of a cluster that can't be registered with this body; `None`: it can."""
    registered = Judgement(cluster, body).registered
    return None if registered["status"] == 201 else registered["body"]


def deployment(body, release, namespace, helm_type, suffix="", timeout=120, **request) -> dict:
    return {
        "deploymentId": f"{release}{suffix}", "helmType": helm_type, "timeoutSecs": timeout,
        "targets": [{"cluster": json.loads(body.read_text())["name"], "namespace": namespace, "release": release}],
        **request,
    }


def judge(cluster, body, release, namespace, helm_type, suffix="", timeout=120, **request) -> Judgement:
    return Judgement(cluster, body, deployment(body, release, namespace, helm_type, suffix, timeout, **request))


def next_second() -> str:
    """Waits for a whole second to begin. Stamps of Kubernetes are cut to it: what was there before has an earlier one."""
    this = time.time()
    time.sleep(1 - this % 1)
    return datetime.fromtimestamp(int(this) + 1, timezone.utc).strftime(STAMP)
