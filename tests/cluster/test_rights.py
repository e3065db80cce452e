"""The account's rights and token, taken away and given: what a real API server answers then, and how it is judged.

These change the one account of the guide, so they run after all the scenarios, one after the other.
"""

import json
import os
import secrets
import subprocess
import time

import pytest

from control_plane import PROGRAMS
from guided import GUIDE, Judgement, Release, judge, next_second


@pytest.fixture(autouse=True)
def alone(request):
    """Lets the scenarios end first."""
    if any(it.get_closest_marker("scenario") for it in request.session.items):
        for future in request.getfixturevalue("pool").values():
            future.exception()


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
    judgement = Judgement(cluster, cluster.body, None)
    assert permissions(judgement) == [{"namespace": None, "flux": "allowed", "plain": "allowed"}]
    body = judgement.registered["body"]
    assert body["lastProbe"].get("reason") is None
    assert body["token"]["subject"] == "system:serviceaccount:dag-monitor:dag-monitor"


def test_the_guides_account_may_do_nothing_else(cluster):
    account = "--as=system:serviceaccount:dag-monitor:dag-monitor"
    for verb, resource, answer in [
        ("list", "secrets", "yes"), ("get", "helmreleases", "yes"), ("get", "secrets", "no"), ("watch", "secrets", "no"),
        ("create", "secrets", "no"), ("list", "helmreleases", "no"), ("list", "pods", "no"), ("update", "helmreleases", "no"),
    ]:
        asked = ["kubectl", "auth", "can-i", account, "--all-namespaces", verb, resource]
        said = subprocess.run(asked, env=cluster.env, capture_output=True, text=True).stdout.strip()
        assert said == answer, (verb, resource)


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
        while (refused := Judgement(cluster, old, None).registered)["status"] == 201:
            time.sleep(1)
    assert (refused["status"], refused["body"]["reason"]) == (422, "Unauthorized"), refused

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
        cluster.create_namespace("shop")
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


def test_without_fluxs_crd(cluster):
    if os.environ.get("KUBECONFIG"):
        pytest.skip("skipped: the CRD of a cluster that is not ours is not taken away")
    body = cluster.follow_guide()
    cluster.kubectl("delete", "-f", str(PROGRAMS / "helmreleases.yaml"))
    judgement = flux(cluster, body)
    assert permissions(judgement) == [{"namespace": None, "flux": "denied", "plain": "allowed"}]
    assert "404" in ended(judgement, "failed", "FluxNotInstalled")
