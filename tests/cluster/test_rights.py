"""The account's rights and token, taken away and given: what a real API server answers then, and how it is judged.

These change the one account of the guide, so they run after all the scenarios, one after the other.
"""

import contextlib
import http.server
import json
import os
import re
import secrets
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest

from control_plane import PROGRAMS, dies_with_us
from guided import GUIDE, ROOT, Hand, Judgement, Release, deployment, eventually, judge, next_second, refused


AWS = """#!/bin/sh
case "$*" in
  "cloudformation describe-stacks --stack-name dag-monitor "*"OutputKey=='ApiUrl'"*) echo "$API_OF_THIS_MACHINE" ;;
  "configure export-credentials --format env")
    echo "export AWS_ACCESS_KEY_ID=AKIDEXAMPLE AWS_SECRET_ACCESS_KEY=example AWS_SESSION_TOKEN=example" ;;
  "configure get region") echo eu-central-1 ;;
  *) echo "the guide asks aws for something else: $*" >&2; exit 1 ;;
esac
"""

pytestmark = pytest.mark.usefixtures("alone")


def permissions(judgement: Judgement) -> list[dict]:
    assert judgement.registered["status"] == 201, judgement.registered
    return judgement.registered["body"]["lastProbe"]["permissions"]


def ended(judgement: Judgement, status: str, reason: str) -> str:
    answer = judgement.verdict()
    assert (answer["status"], answer["reason"]) == (status, reason), answer["message"]
    return answer["message"]


def flux(cluster, body, name="no-such", namespace=None, **request) -> Judgement:
    return judge(cluster, body, f"{name}-{secrets.token_hex(4)}", namespace or cluster.namespace, "flux", **request)


def plain(cluster, body, name="no-such", namespace=None, **request) -> Judgement:
    return judge(cluster, body, f"{name}-{secrets.token_hex(4)}", namespace or cluster.namespace, "plain", **request)


def test_the_guides_account_serves_both_everywhere(cluster):
    judgement = Judgement(cluster, cluster.body)
    assert permissions(judgement) == [{"namespace": None, "flux": "allowed", "plain": "allowed"}]
    body = judgement.registered["body"]
    assert body["lastProbe"].get("reason") is None
    assert body["token"]["subject"] == "system:serviceaccount:dag-monitor:dag-monitor"


def may_do_this_alone(cluster, account: str):
    for verb, resource, allowed in [
        ("list", "secrets", True), ("get", "helmreleases", True), ("get", "secrets", False),
        ("watch", "secrets", False), ("create", "secrets", False), ("list", "helmreleases", False),
        ("list", "pods", False), ("update", "helmreleases", False),
    ]:
        assert cluster.may(account, verb, resource) == allowed, (verb, resource)


def test_the_guides_account_may_do_nothing_else(cluster):
    may_do_this_alone(cluster, "--as=system:serviceaccount:dag-monitor:dag-monitor")


@contextlib.contextmanager
def gateway(api: str, key: str):
    """What stands between a signed request and `serve`, which asks for its key: its address, and what was signed."""
    signatures = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            signatures.append(self.headers["authorization"])
            request = urllib.request.Request(
                api + self.path, method="POST", data=self.rfile.read(int(self.headers["content-length"])),
                headers={"content-type": self.headers["content-type"], "authorization": f"Bearer {key}"})
            try:
                with urllib.request.urlopen(request, timeout=60) as it:
                    status, text = it.status, it.read()
            except urllib.error.HTTPError as it:
                status, text = it.code, it.read()
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", signatures
        server.shutdown()


@contextlib.contextmanager
def serving(cluster, log):
    """The API on this machine: its address, and its key."""
    served = [os.environ["CLUSTER_SERVE"], "serve", "--in-memory", "--port=0", f"--allow-cidr={cluster.allowed()}"]
    with subprocess.Popen(
        served, stdout=subprocess.PIPE, stderr=log.open("w"), text=True, preexec_fn=dies_with_us
    ) as server:
        try:
            api = re.search(r"http://[^,\s]+", server.stdout.readline())[0]
            told = (re.match(r"export DAG_MONITOR_KEY=(\S+)", line) for line in server.stdout)
            yield api, next(it[1] for it in told if it)
        finally:
            server.kill()


def is_registered(answer: str, name: str):
    """And may do what both kinds of releases need, everywhere."""
    registered = json.loads(answer)
    assert registered["name"] == name
    assert registered["lastProbe"]["permissions"] == [{"namespace": None, "flux": "allowed", "plain": "allowed"}]


def test_the_guides_command_registers_the_cluster(cluster):
    """As it stands there, with an `aws` that knows the address of an API on this machine."""
    folder = cluster.folder / "registering"
    folder.mkdir()
    body = folder / "body.json"
    body.write_bytes(cluster.body.read_bytes())
    aws = folder / "aws"
    aws.write_text(AWS)
    aws.chmod(0o755)
    with serving(cluster, folder / "serve.log") as (api, key), gateway(api, key) as (url, signatures):
        answer = cluster.send(folder, PATH=f"{folder}:{cluster.env['PATH']}", API_OF_THIS_MACHINE=url)
    assert [it.split()[0] for it in signatures] == ["AWS4-HMAC-SHA256"]
    is_registered(answer, "Prod EU")
    # It held the token.
    assert not body.exists()


def test_the_program_applies_the_guide_and_registers_the_cluster(cluster):
    """And asks first: what it would apply is shown, and what is registered is not replaced without a yes."""
    with serving(cluster, cluster.folder / "registering.log") as (api, key):
        command = [os.environ["CLUSTER_SERVE"], "register", "Prod EU", "--endpoint", api, "-o", "json"]
        code, answer, said = cluster.register_anew(command, DAG_MONITOR_KEY=key)
        assert code == 0, said
        for words in ("kind: ClusterRole\r\n", "name: dag-monitor-token", "Apply them to", "secret/dag-monitor-token created"):
            assert words in said, (words, said)
        is_registered(answer, "Prod EU")
        for word, ended in (("n", 3), ("", 3), ("y", 0)):
            code, answer, said = cluster.at_terminal(command, word, DAG_MONITOR_KEY=key)
            assert (code, "belongs to a registered cluster" in said) == (ended, True), said
        is_registered(answer, "Prod EU")


def test_a_token_is_changed_while_a_deployment_runs(cluster):
    helm = Release(cluster, "helm4", "token-changed")
    helm.install()
    next_second()
    old = cluster.folder / "old-body.json"
    old.write_bytes(cluster.body.read_bytes())
    # Two that run with the old token: of one it is changed in time.
    current = cluster.folder / "current-body.json"
    current.write_bytes(old.read_bytes())
    changed = judge(cluster, current, helm.name, helm.namespace, "plain", timeout=120)
    forgotten = judge(cluster, old, helm.name, helm.namespace, "plain", suffix="-forgotten", timeout=120)
    changed.next_answer()
    forgotten.next_answer()

    with changed.paused():
        new = cluster.change_token()
        # A secret that is made again for the same account holds the same token, byte for byte.
        assert new.read_bytes() != old.read_bytes(), "the guide's commands do not change the token"
        there = cluster.folder / "new-body.json"
        there.write_bytes(new.read_bytes())
        # An API server may remember a token for another ten seconds.
        eventually(lambda: refused(cluster, old))
    assert refused(cluster, old)["reason"] == "Unauthorized"

    changed.until(lambda it: it["reason"] == "Unauthorized")
    os.replace(there, current)
    changed.until(lambda it: it["reason"] == "WaitingForChange")
    helm.upgrade()
    ended(changed, "succeeded", "Deployed")
    ended(forgotten, "failed", "Unauthorized")


def test_flux_only(cluster):
    body = cluster.follow_guide(GUIDE / "overlays/flux-only")
    denied, absent = plain(cluster, body), flux(cluster, body, timeout=12)
    assert permissions(denied) == [{"namespace": None, "flux": "allowed", "plain": "denied"}]
    assert "secrets is forbidden" in ended(denied, "failed", "Forbidden")
    assert absent.verdict()["lastReason"] == "NotFound"


def test_namespaced(cluster):
    if not cluster.kubectl("get", "namespace", "shop", "--ignore-not-found"):
        cluster.create("namespace", "shop")
    body = cluster.follow_guide(GUIDE / "overlays/namespaced")
    body.write_text(json.dumps(json.loads(body.read_text()) | {"namespaces": ["shop", cluster.namespace]}))
    release = Release(cluster, "helm3", "namespaced", "shop")
    inside = judge(cluster, body, release.name, "shop", "plain")
    there = {it["namespace"]: (it["flux"], it["plain"]) for it in permissions(inside)}
    assert there == {"shop": ("allowed", "allowed"), cluster.namespace: ("denied", "denied")}
    outside = [plain(cluster, body), flux(cluster, body)]
    absent = flux(cluster, body, namespace="shop", timeout=12)
    inside.next_answer()
    try:
        release.install()
        ended(inside, "succeeded", "Deployed")
    finally:
        # The namespace may be somebody's.
        release.uninstall()
    assert "secrets is forbidden" in ended(outside[0], "failed", "Forbidden")
    assert "helmreleases.helm.toolkit.fluxcd.io" in ended(outside[1], "failed", "Forbidden")
    assert absent.verdict()["lastReason"] == "NotFound"


def test_eks(cluster):
    cluster.follow_guide(GUIDE / "overlays/eks", registers=False)
    may_do_this_alone(cluster, "--as=dag-monitor-check --as-group=dag-monitor")
    assert not cluster.may("--as=dag-monitor-check", "list", "secrets")


def test_fluxs_crd_is_removed(cluster, admin):
    if os.environ.get("KUBECONFIG"):
        pytest.skip("skipped: the CRD of a cluster that is not ours is not taken away")
    body = cluster.follow_guide()
    release = f"/apis/helm.toolkit.fluxcd.io/v2/namespaces/{cluster.namespace}/helmreleases"
    spec = {"interval": "1m", "chartRef": {"kind": "OCIRepository", "name": "any"}}
    admin.call("POST", release, {
        "apiVersion": "helm.toolkit.fluxcd.io/v2", "kind": "HelmRelease", "metadata": {"name": "any"}, "spec": spec,
    })
    asked = [deployment(body, it, cluster.namespace, "flux") for it in ("any", "no-such")]
    with Hand(cluster, body, "crd-removed") as hand:
        assert [hand.check(it)["reason"] for it in asked] == ["Progressing", "NotFound"]
        cluster.kubectl("delete", "-f", str(PROGRAMS / "helmreleases.yaml"))
        # The API server goes on serving it for a moment.
        eventually(lambda: admin.call("GET", "/apis/helm.toolkit.fluxcd.io") is None)
        for request in asked:
            answers = [hand.check(request) for _ in range(3)]
            assert [it["reason"] for it in answers] == ["FluxNotInstalled"] * 3, answers
            assert [it["status"] for it in answers] == ["pending", "pending", "failed"], answers
    registered = Judgement(cluster, body)
    assert permissions(registered) == [{"namespace": None, "flux": "denied", "plain": "allowed"}]
    assert "404" in ended(flux(cluster, body), "failed", "FluxNotInstalled")
