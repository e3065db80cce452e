"""Trouble as only a real control plane makes it, while a deployment runs. The checks are by hand: none is early or late."""

import base64
import functools
import json
import subprocess
import time

import pytest

from control_plane import ISSUER
from guided import Account, Hand, Release, deployment, eventually, next_second, refused

RELEASES = "/apis/helm.toolkit.fluxcd.io/v2/namespaces/{}/helmreleases"


def said(answer: dict) -> tuple[str, str]:
    return answer["status"], answer["reason"]


def installed(cluster, name: str, namespace: str | None = None) -> Release:
    release = Release(cluster, "helm4", name, namespace)
    release.install()
    # Stamps are cut to the second: what is there must be of an earlier one than the deployment's start.
    next_second()
    return release


def create_helm_release(admin, namespace: str, name: str):
    """One that no controller has looked at."""
    admin.call("POST", RELEASES.format(namespace), {
        "apiVersion": "helm.toolkit.fluxcd.io/v2", "kind": "HelmRelease", "metadata": {"name": name},
        "spec": {"interval": "1m", "chartRef": {"kind": "OCIRepository", "name": name}},
    })


def is_removed(hand: Hand, request: dict):
    answers = [said(hand.check(request)) for _ in range(3)]
    assert answers == [("pending", "NotFound")] * 2 + [("failed", "Removed")], request


def rights_are_taken(cluster, admin):
    """For two polls they are a hiccup, for three a failure."""
    account = Account(cluster, "rights-taken")
    release = installed(cluster, "rights-taken")
    waits, fails = release.request(), release.request("-for-good")
    with Hand(cluster, account.body(), release.name) as hand:
        for request in (waits, fails):
            assert said(hand.check(request)) == ("pending", "WaitingForChange")
        account.forbid()
        assert [said(hand.check(waits)) for _ in range(2)] == [("pending", "Forbidden")] * 2
        assert [said(hand.check(fails)) for _ in range(2)] == [("pending", "Forbidden")] * 2
        failed = hand.check(fails)
        assert said(failed) == ("failed", "Forbidden")
        assert f'User "{account.user}" cannot list resource "secrets"' in failed["message"], failed["message"]
        account.allow()
        assert said(hand.check(waits)) == ("pending", "WaitingForChange")
        # The count begins again.
        account.forbid()
        assert [said(hand.check(waits)) for _ in range(2)] == [("pending", "Forbidden")] * 2
        account.allow()
        release.upgrade()
        assert said(hand.check(waits)) == ("succeeded", "Deployed")


def rights_are_taken_from_flux(cluster, admin):
    account = Account(cluster, "flux-rights-taken")
    create_helm_release(admin, cluster.namespace, "rights-taken")
    request = deployment(cluster.body, "rights-taken", cluster.namespace, "flux")
    with Hand(cluster, account.body(), "flux-rights-taken") as hand:
        assert said(hand.check(request)) == ("pending", "Progressing")
        account.forbid()
        assert [said(hand.check(request)) for _ in range(2)] == [("pending", "Forbidden")] * 2
        account.allow()
        assert said(hand.check(request)) == ("pending", "Progressing")
        account.forbid()
        answers = [said(hand.check(request)) for _ in range(3)]
        assert answers == [("pending", "Forbidden")] * 2 + [("failed", "Forbidden")]


def is_unauthorized(cluster, body, request, hand):
    """The API server remembers a token for some seconds; from then on it is refused at every look."""
    eventually(lambda: refused(cluster, body))
    assert refused(cluster, body)["reason"] == "Unauthorized"
    answers = [said(hand.check(request)) for _ in range(3)]
    assert answers == [("pending", "Unauthorized")] * 2 + [("failed", "Unauthorized")]


def the_secret_of_a_token_is_deleted(cluster, admin):
    account = Account(cluster, "secret-deleted")
    cluster.kubectl("-n", cluster.namespace, "create", "secret", "generic", "secret-deleted")
    body = account.body(account.token("--bound-object-kind=Secret", "--bound-object-name=secret-deleted"))
    request = deployment(cluster.body, "no-such", cluster.namespace, "plain", "-secret-deleted")
    with Hand(cluster, body, "secret-deleted") as hand:
        assert said(hand.check(request)) == ("pending", "NotFound")
        cluster.kubectl("-n", cluster.namespace, "delete", "secret", "secret-deleted")
        is_unauthorized(cluster, body, request, hand)


def the_account_of_a_token_is_deleted(cluster, admin):
    account = Account(cluster, "account-deleted")
    body = account.body()
    request = deployment(cluster.body, "no-such", cluster.namespace, "flux", "-account-deleted")
    with Hand(cluster, body, "account-deleted") as hand:
        assert said(hand.check(request)) == ("pending", "NotFound")
        cluster.kubectl("-n", cluster.namespace, "delete", "serviceaccount", "account-deleted")
        is_unauthorized(cluster, body, request, hand)


def a_token_expires(cluster, admin):
    """The shortest that an API server gives lives ten minutes; so this one is signed with its key."""
    if not cluster.control_plane:
        pytest.skip("skipped: the signing key of a cluster that is not ours is not at hand")
    account = Account(cluster, "token-expires")
    token = signed(cluster.control_plane.accounts_key, claims_of(account.token()) | {"exp": int(time.time()) + 30})
    body = account.body(token)
    request = deployment(cluster.body, "no-such", cluster.namespace, "plain", "-token-expires", timeout=7200)
    with Hand(cluster, body, "token-expires") as hand:
        assert said(hand.check(request)) == ("pending", "NotFound")
        # Registering looks at the token itself first; what the API server says of it comes out by the checks.
        unauthorized = [("pending", "Unauthorized")] * 2 + [("failed", "Unauthorized")]
        answers = []
        eventually(lambda: answers.append(said(hand.check(request))) or answers[-1] != ("pending", "NotFound"))
        answers += [said(hand.check(request)) for _ in range(2)]
        assert answers[-3:] == unauthorized
    assert "/serviceAccountToken" in json.dumps(refused(cluster, body)), "an expired token is refused by itself"


def claims_of(token: str) -> dict:
    claims = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))


def signed(key, claims: dict) -> str:
    def part(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    assert claims["iss"] == ISSUER
    text = f"{part(json.dumps({'alg': 'RS256'}).encode())}.{part(json.dumps(claims).encode())}"
    sign = ["openssl", "dgst", "-sha256", "-sign", str(key)]
    signature = subprocess.run(sign, input=text.encode(), stdout=subprocess.PIPE, check=True).stdout
    return f"{text}.{part(signature)}"


def the_namespace_is_deleted(cluster, admin):
    namespace = f"{cluster.namespace}-deleted"
    cluster.create("namespace", namespace)
    begun, idle = (installed(cluster, it, namespace) for it in ("begun", "idle"))
    create_helm_release(admin, namespace, "seen")
    asked = {
        "begun": begun.request(), "idle": idle.request(timeout=60),
        "seen": deployment(cluster.body, "seen", namespace, "flux"),
    }
    with Hand(cluster, cluster.body, "namespace-deleted") as hand:
        first = {name: hand.check(request)["reason"] for name, request in asked.items()}
        assert first == {"begun": "WaitingForChange", "idle": "WaitingForChange", "seen": "Progressing"}
        begun.killed("upgrade", 2)
        assert said(hand.check(asked["begun"])) == ("pending", "Progressing")
        # Waits until it is gone.
        cluster.kubectl("delete", "namespace", namespace)
        for name in ("begun", "seen"):
            is_removed(hand, asked[name])
        # Nothing had begun here: it may be made again, and installed.
        timed_out = hand.verdict(asked["idle"])
        assert (*said(timed_out), timed_out["lastReason"]) == ("failed", "Timeout", "NotFound")


SCENARIOS = (
    rights_are_taken, rights_are_taken_from_flux, the_secret_of_a_token_is_deleted, the_account_of_a_token_is_deleted,
    a_token_expires, the_namespace_is_deleted,
)


@pytest.mark.scenario("cluster", "admin")
@pytest.mark.parametrize("scenario", [pytest.param(functools.partial(it), id=it.__name__) for it in SCENARIOS])
def test_faults(scenario, outcome):
    outcome()


class Running:
    """A deployment of each kind, one checked by hand and one as time goes by, while the control plane is killed."""

    def __init__(self, cluster, admin, name: str):
        self.cluster, self.admin, self.name = cluster, admin, name
        self.release = installed(cluster, f"plain-{name}")
        create_helm_release(admin, cluster.namespace, f"flux-{name}")
        self.flux = deployment(cluster.body, f"flux-{name}", cluster.namespace, "flux")
        self.plain = self.release.request("-by-hand")
        self.judgement = self.release.judge(self.release.request(timeout=300))
        self.hand = self.release.by_hand()

    def begin(self):
        assert said(self.judgement.next_answer()) == ("pending", "WaitingForChange")
        assert said(self.hand.check(self.plain)) == ("pending", "WaitingForChange")
        assert said(self.hand.check(self.flux)) == ("pending", "Progressing")

    def waits_out(self, reasons: set[str], looks: int = 5):
        """However often it looks: this is not the deployment's failure."""
        for request in (self.plain, self.flux):
            for _ in range(looks):
                status, reason = said(self.hand.look(request))
                assert status == "pending" and reason in reasons, (status, reason)
        self.judgement.until(lambda it: it["reason"] in reasons)

    def ends_well(self):
        """After the trouble all is as before, and a push is judged by what it brings."""
        assert said(self.hand.check(self.plain)) == ("pending", "WaitingForChange")
        assert said(self.hand.check(self.flux)) == ("pending", "Progressing")
        self.release.upgrade()
        assert said(self.judgement.verdict()) == ("succeeded", "Deployed")
        assert said(self.hand.check(self.plain)) == ("succeeded", "Deployed")
        self.admin.call("DELETE", f"{RELEASES.format(self.cluster.namespace)}/flux-{self.name}")
        is_removed(self.hand, self.flux)
        self.hand.__exit__()


@pytest.fixture
def control_plane(cluster):
    if not cluster.control_plane:
        pytest.skip("skipped: a cluster that is not ours is not killed")
    return cluster.control_plane


def test_the_api_server_is_killed_and_starts_again(alone, cluster, admin, control_plane):
    running = Running(cluster, admin, "api-server-killed")
    running.begin()
    control_plane.kill("kube-apiserver")
    running.waits_out({"ClusterUnreachable"})
    control_plane.run("kube-apiserver")
    control_plane.wait_until_ready()
    running.ends_well()


def test_etcd_is_killed_and_starts_again(alone, cluster, admin, control_plane):
    running = Running(cluster, admin, "etcd-killed")
    running.begin()
    control_plane.kill("etcd")
    running.waits_out({"ClusterSlow", "ServerError", "ClusterUnreachable"}, looks=2)
    control_plane.run("etcd")
    control_plane.wait_until_ready()
    running.ends_well()
