"""Probes: before a cluster is stored, when somebody asks for one, and of all clusters once a day."""

import json
import socket
from pathlib import Path

import pytest
from cluster import GUIDE
from conftest import cluster_body

EVENT = (Path(__file__).parents[2] / "infra/events/scheduled-probe.json").read_bytes()
ALL = [{"namespace": None, "flux": "allowed", "plain": "allowed"}]
PROBE_FAILED = "urn:dag-monitor:problem:probe-failed"


@pytest.fixture(scope="module")
def odd(clusters):
    """The cluster that is made to behave oddly. Afterwards it is as it was."""
    it = clusters["odd"]
    yield it
    it.show("good")
    it.allow()


@pytest.fixture(scope="module")
def dead_port() -> int:
    """Nobody listens there."""
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def test_a_registration_says_what_the_token_may_do(registered, clusters):
    shown = registered["eu"].json
    probe = shown["lastProbe"]
    assert (probe["ok"], probe["reason"]) == (True, None)
    assert (probe["kubernetesVersion"], probe["permissions"]) == ("v1.36.3", ALL)
    assert probe["serverCertificateNotAfter"] and probe["at"] >= shown["createdAt"][:19]
    assert shown["warnings"] == probe["warnings"] == []
    # Really asked, by nothing but what any account may ask.
    asked = {it["pathAndQuery"] for it in clusters["eu"].requests("")}
    assert "/version" in asked
    assert any("selfsubjectaccessreviews" in it for it in asked)


def refused(stack, operator, body: dict, reason: str):
    """A registration that fails by its probe: 422 with this reason, and nothing is left of it."""
    answer = stack.request("POST", "/clusters", body, operator)
    assert (answer.status, answer.headers["content-type"]) == (422, "application/problem+json"), answer
    problem = answer.json
    assert (problem["type"], problem["reason"]) == (PROBE_FAILED, reason), problem
    assert problem["detail"] and problem["help"]
    assert body["serviceAccountToken"] not in answer.text
    cluster = body["name"].lower().replace(" ", "-")
    assert stack.registry_row(cluster) is None
    assert not [it for it in stack.secret_names() if f"/{cluster}/" in it]
    assert stack.request("GET", f"/clusters/{cluster}", credentials=operator).status == 404
    return problem


def test_a_wrong_token_is_told(stack, operator, odd):
    refused(stack, operator, cluster_body("Wrong token", odd, serviceAccountToken="not-the-token-of-this-cluster"),
            "Unauthorized")


def test_a_dead_port_is_told(stack, operator, odd, dead_port):
    refused(stack, operator, cluster_body("Dead port", odd, apiUrl=f"https://127.0.0.1:{dead_port}"),
            "ConnectionRefused")


def test_an_unknown_name_is_told(stack, operator, odd):
    # RFC 2606: no such name can ever be registered.
    refused(stack, operator, cluster_body("No name", odd, apiUrl="https://api.cluster.invalid"), "DnsFailed")


def test_an_address_that_is_not_allowed_is_refused_without_asking(stack, operator, odd):
    answer = stack.request("POST", "/clusters", cluster_body("Far", odd, apiUrl="https://192.0.2.7:6443"), operator)
    assert (answer.status, [it["pointer"] for it in answer.json["errors"]]) == (422, ["/apiUrl"]), answer


def test_another_ca_is_told_though_all_are_named_kubernetes(stack, operator, odd, clusters):
    problem = refused(stack, operator, cluster_body("Other CA", odd, caCert=clusters["us"].ca_cert),
                      "CertificateNotTrusted")
    # Which issuer was met, and the fingerprint by which the operator finds the certificate.
    assert "kubernetes" in problem["detail"] and problem["detail"].count(":") > 20


@pytest.mark.parametrize(("kind", "reason"), [
    ("otherIssuer", "CertificateNotTrusted"),
    ("expired", "CertificateExpired"),
    ("wrongName", "CertificateForAnotherName"),
])
def test_a_certificate_is_told(stack, operator, odd, kind, reason):
    odd.show(kind)
    try:
        problem = refused(stack, operator, cluster_body(f"Shows {kind}", odd), reason)
    finally:
        odd.show("good")
    if kind == "otherIssuer":
        assert "another-cluster" in problem["detail"]
    if kind == "wrongName":
        assert "tlsServerName" in problem["help"] and "elsewhere.invalid" in problem["detail"] + problem["help"]


def test_a_server_name_is_what_is_asked_for(stack, operator, odd):
    refused(stack, operator, cluster_body("Other name", odd, tlsServerName="other.example.com"),
            "CertificateForAnotherName")
    answer = stack.request("POST", "/clusters", cluster_body("Right name", odd, tlsServerName="kubernetes"), operator)
    assert (answer.status, answer.json["tlsServerName"]) == (201, "kubernetes"), answer


@pytest.mark.parametrize(("fault", "reason"), [
    ("html", "HtmlAnswered"),
    ("wrongKind", "NotKubernetes"),
    ({"redirect": {"location": "https://login.example.com"}}, "Redirected"),
    ({"status": {"code": 403}}, "Forbidden"),
    ({"status": {"code": 503}}, "ServerError"),
    ("notTls", "NotKubernetes"),
    ("noHandshake", "TimedOut"),
    ("silence", "TimedOut"),
    ("reset", "Unreachable"),
    ("refuse", "ConnectionRefused"),
])
def test_a_fault_is_told(stack, operator, odd, fault, reason):
    name = fault if isinstance(fault, str) else "-".join(map(str, [*fault, *next(iter(fault.values())).values()][:2]))
    name = "".join(it if it.isalnum() else " " for it in name)
    with odd.fault(fault):
        problem = refused(stack, operator, cluster_body(f"Fault {name}", odd), reason)
    if fault == "notTls":
        assert "without TLS" in problem["help"]


def test_what_a_token_may_not_do_is_reported_and_not_refused(stack, operator, odd):
    odd.allow({"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"], "namespaces": ["shop"]})
    try:
        answer = stack.request(
            "POST", "/clusters", cluster_body("Partly", odd, namespaces=["shop", "other"]), operator)
    finally:
        odd.allow()
    assert answer.status == 201, answer
    assert answer.json["namespaces"] == ["shop", "other"]
    assert answer.json["lastProbe"]["permissions"] == [
        {"namespace": "shop", "flux": "denied", "plain": "allowed"},
        {"namespace": "other", "flux": "denied", "plain": "denied"},
    ]


def test_what_a_token_may_do_beyond_the_need_is_warned_of(stack, operator, odd):
    odd.allow({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]})
    try:
        answer = stack.request("POST", "/clusters", cluster_body("Mighty", odd), operator)
    finally:
        odd.allow()
    assert (answer.status, answer.json["lastProbe"]["permissions"]) == (201, ALL), answer
    assert any("cluster-admin" in it for it in answer.json["warnings"]), answer


def test_each_permission_beyond_the_need_is_named(stack, operator, odd):
    odd.allow(*GUIDE, {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "watch", "delete"]},
              {"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]})
    try:
        answer = stack.request("POST", "/clusters", cluster_body("Beyond", odd), operator)
    finally:
        odd.allow()
    assert (answer.status, answer.json["lastProbe"]["permissions"]) == (201, ALL), answer
    warnings = " ".join(answer.json["warnings"])
    assert all(it in warnings for it in ("get", "watch", "delete", "secrets", "create", "pods")), warnings
    assert "cluster-admin" not in warnings


def test_a_probe_can_be_left_out_and_done_later(stack, operator, odd):
    wrong = "this-token-is-known-to-nobody"
    answer = stack.request(
        "POST", "/clusters?probe=false", cluster_body("Later", odd, serviceAccountToken=wrong), operator)
    assert (answer.status, answer.json["lastProbe"]) == (201, None), answer
    assert any("probe" in it for it in answer.json["warnings"]), answer
    assert wrong in stack.secret("later")

    failed = stack.request("POST", "/clusters/later/probe", credentials=operator)
    assert (failed.status, failed.json["type"], failed.json["reason"]) == (422, PROBE_FAILED, "Unauthorized"), failed
    shown = stack.request("GET", "/clusters/later", credentials=operator).json["lastProbe"]
    assert (shown["ok"], shown["reason"], shown["permissions"]) == (False, "Unauthorized", [])

    # A change that fails by its probe leaves what was there.
    refused_change = stack.request("PUT", "/clusters/later", {"serviceAccountToken": "nor-is-this-one-known"}, operator)
    assert (refused_change.status, refused_change.json["reason"]) == (422, "Unauthorized")
    assert wrong in stack.secret("later")

    changed = stack.request("PUT", "/clusters/later", {"serviceAccountToken": odd.token}, operator)
    assert (changed.status, changed.json["lastProbe"]["ok"]) == (200, True), changed
    again = stack.request("POST", "/clusters/later/probe", credentials=operator)
    assert (again.status, again.json["lastProbe"]["permissions"]) == (200, ALL), again
    assert again.json["lastProbe"]["at"] >= changed.json["lastProbe"]["at"]


def test_the_schedule_calls_the_function_once_a_day(stack):
    rule = stack.resources("AWS::Events::Rule")["ProbeRule"]
    name = rule.rsplit("/", 1)[-1].rsplit("|", 1)[-1]
    described = stack.client("events").describe_rule(Name=name)
    assert (described["ScheduleExpression"], described["State"]) == ("rate(1 day)", "ENABLED")
    target, = stack.client("events").list_targets_by_rule(Rule=name)["Targets"]
    assert target["Arn"] == stack.function("RegisterFunctionName")["FunctionArn"]
    policy = json.loads(stack.client("lambda").get_policy(
        FunctionName=stack.outputs["RegisterFunctionName"])["Policy"])
    assert [it for it in policy["Statement"] if it["Principal"] == {"Service": "events.amazonaws.com"}
            and described["Arn"] in json.dumps(it["Condition"])]


@pytest.fixture(scope="module")
def daily(stack, operator, registered, odd, events):
    """A daily probe while one cluster is down; when it was."""
    assert stack.request("POST", "/clusters", cluster_body("Down", odd), operator).status == 201
    before = stack.request("GET", "/clusters/sim-eu", credentials=operator).json["lastProbe"]["at"]
    with odd.fault("refuse"):
        answer, failed = stack.invoke("RegisterFunctionName", EVENT)
    assert not failed, answer
    return before, answer


def test_a_cluster_that_is_down_is_told_of_and_a_healthy_one_is_not(daily, stack, operator, events):
    before, swept = daily
    told = events.about_cluster("down")[0]
    assert set(told) == {"cluster", "name", "probedAt", "reason", "message", "tokenExpiresAt", "certificateNotAfter"}
    assert (told["name"], told["reason"], told["tokenExpiresAt"]) == ("Down", "ConnectionRefused", None)
    assert told["message"] and told["certificateNotAfter"]
    # All were told before the function answered, so they have come with that one.
    about = {it["detail"]["cluster"] for it in events.seen if it["detail-type"] == "Cluster Needs Attention"}
    assert not about & {"sim-eu", "sim-us", "sim-rotating"}
    assert all(it["source"] == "dag-monitor" for it in events.seen)
    assert (swept["left"], swept["probed"] > swept["attention"] >= len(about)) == (0, True), swept

    shown = {it: stack.request("GET", f"/clusters/{it}", credentials=operator).json["lastProbe"]
             for it in ("down", "sim-eu")}
    assert (shown["down"]["ok"], shown["down"]["reason"]) == (False, "ConnectionRefused")
    assert shown["down"]["at"] == told["probedAt"]
    assert shown["sim-eu"]["ok"] and shown["sim-eu"]["at"] > before


def test_the_figures_are_in_the_log(daily, stack):
    """As CloudWatch takes them from a line, by the embedded metric format."""
    lines = [json.loads(it) for it in stack.logged("RegisterFunctionName") if '"CloudWatchMetrics"' in it]
    figures = {it["Cluster"]: it for it in lines}
    assert {"down", "sim-eu", "sim-us"} <= set(figures)
    for name, unreachable in (("down", 1), ("sim-eu", 0)):
        line = figures[name]
        directive, = line["_aws"]["CloudWatchMetrics"]
        assert (directive["Namespace"], directive["Dimensions"]) == ("dag-monitor", [["Stack"], ["Stack", "Cluster"]])
        assert line["Stack"] == "e2e" and line["_aws"]["Timestamp"] > 1_700_000_000_000
        assert line["ClusterUnreachable"] == unreachable
        assert line["CertificateSecondsLeft"] > 300 * 86_400
        assert {it["Name"] for it in directive["Metrics"]} == {"ClusterUnreachable", "CertificateSecondsLeft"}


def test_no_daily_probe_was_left_behind(daily, stack):
    attributes = stack.client("sqs").get_queue_attributes(
        QueueUrl=stack.outputs["UnprobedQueueUrl"], AttributeNames=["ApproximateNumberOfMessages"])
    assert attributes["Attributes"]["ApproximateNumberOfMessages"] == "0"
