"""Deployments, from the start of an execution to the event about its end."""

import json
import time
from dataclasses import dataclass, field
from datetime import datetime

import pytest
from conftest import seen_on, until_stored


@dataclass(frozen=True)
class Case:
    """A deployment and what must become of it."""

    id: str
    helm_type: str
    # Cluster and recording of each target.
    targets: tuple[tuple[str, str], ...]
    status: str
    reason: str
    # What the execution ends with where it fails.
    error: str | None = None
    # Of each target, where there are several.
    each: tuple[str, ...] = ()
    # What a check says instead that falls between two writes of one action, a fraction of a second apart.
    between_writes: str | None = None
    more: dict = field(default_factory=dict)

    def request(self, clusters) -> dict:
        """Lets it happen on the clusters and says what a pipeline would after its push."""
        pushed = [clusters[cluster].play(recording, self.id) for cluster, recording in self.targets]
        return {
            "deploymentId": self.id,
            "helmType": self.helm_type,
            "targets": [{"cluster": f"Sim {cluster}", "namespace": "e2e", "release": self.id}
                        for cluster, _ in self.targets],
            "pushedAt": min(pushed),
            **self.more,
        }


FAILED, TIMED_OUT = "DeploymentFailed", "DeploymentTimedOut"
CASES = [
    Case("flux-success", "flux", (("eu", "flux/chart-upgrade"),), "succeeded", "UpgradeSucceeded"),
    Case("flux-first-install", "flux", (("eu", "flux/first-install"),), "succeeded", "InstallSucceeded"),
    Case("flux-values-only", "flux", (("eu", "flux/values-only-upgrade"),), "succeeded", "UpgradeSucceeded"),
    Case("flux-failure", "flux", (("eu", "flux/upgrade-fails-no-retry"),), "failed", "UpgradeFailed", FAILED),
    Case("flux-rolled-back", "flux", (("eu", "flux/upgrade-fails-rolled-back"),), "failed", "RolledBack", FAILED),
    Case("plain-success", "plain", (("us", "helm/helm3-upgrade"),), "succeeded", "Deployed"),
    Case("plain-expected", "plain", (("us", "helm/helm4-upgrade"),), "succeeded", "Deployed",
         more={"expect": {"chartVersion": "1.1.0"}}),
    Case("plain-rolled-back", "plain", (("us", "helm/helm3-upgrade-rolled-back"),), "failed", "RolledBack", FAILED,
         between_writes="UpgradeFailed"),
    Case("timeout", "flux", (("eu", "flux/waits-for-dependency"),), "failed", "Timeout", TIMED_OUT,
         more={"timeoutSecs": 15}),
    Case("two-clusters", "flux", (("eu", "flux/chart-upgrade"), ("us", "flux/chart-upgrade")),
         "succeeded", "AllDeployed", each=("succeeded", "succeeded")),
    Case("one-of-two-fails", "flux", (("eu", "flux/chart-upgrade"), ("us", "flux/upgrade-fails-no-retry")),
         "failed", "UpgradeFailed", FAILED, each=("succeeded", "failed")),
]
BY_ID = {it.id: it for it in CASES}


@pytest.fixture(scope="module")
def deployments(stack, events, registered, clusters, start):
    """All of them at once: they take as long as the longest."""
    return {it.id: start(it.request(clusters), f"run-of-{it.id}") for it in CASES}


def test_one_stopped_by_hand_is_closed(deployments, stack, clusters, events, start):
    """No state of the machine runs any more: the rule on its end has the check function close the item."""
    case = Case("stopped", "flux", (("eu", "flux/waits-for-dependency"),), "failed", "")
    deployment = start(case.request(clusters), "run-of-stopped")
    seen_on(clusters["eu"], "stopped")
    until_stored(stack, "stopped")

    deployment.execution.stop()

    assert deployment.execution.wait()["status"] == "ABORTED"
    event = events.of("stopped")[0]
    item = stack.item("stopped")
    assert (item["status"], item["executionArn"]) == ("failed", deployment.execution.arn)
    assert item["reason"] == "MonitorError" and item["finishedAt"]
    assert "stopped by hand" in item["message"]
    assert (event["status"], event["reason"], event["message"]) == ("failed", item["reason"], item["message"])


def test_another_execution_with_the_same_id_is_refused(deployments, stack, start):
    """A reused id must not return another deployment's verdict; that one goes on undisturbed."""
    first = deployments["flux-rolled-back"]
    until_stored(stack, first.id)

    second = start(first.request, "second-with-the-same-id")

    ended = second.execution.wait()
    assert (ended["status"], ended["error"]) == ("FAILED", "InvalidRequest")
    assert first.execution.arn in ended["cause"]
    assert second.execution.entered() == ["Check", "Explain", "Mark", "GiveUp"]
    assert stack.item(first.id)["executionArn"] == first.execution.arn
    assert stack.item(first.id)["status"] == "pending"


def test_token_and_ca_may_change_between_two_polls(deployments, stack, operator, clusters, start):
    """In one request. The deployment goes on with the new ones, and the old ones are not needed any more."""
    cluster = clusters["rotating"]
    pushed = cluster.play("flux/chart-upgrade", "rotation", push_in_ms=12_000)
    deployment = start({
        "deploymentId": "rotation", "helmType": "flux", "pushedAt": pushed,
        "targets": [{"cluster": "sim-rotating", "namespace": "e2e", "release": "rotation"}],
    }, "run-of-rotation")
    seen_on(cluster, "rotation")

    cluster.accept("token-after-rotation")
    cluster.show("otherIssuer")
    # What is stored does not let us in any more, neither by the certificate nor by the token.
    for half, reason in (({"serviceAccountToken": "token-after-rotation"}, "CertificateNotTrusted"),
                         ({"serviceAccountToken": cluster.token, "caCert": cluster.other_ca_cert}, "Unauthorized")):
        refused = stack.request("PUT", "/clusters/sim-rotating", half, operator)
        assert (refused.status, refused.json["reason"]) == (422, reason), refused
    changed = stack.request("PUT", "/clusters/sim-rotating", {
        "serviceAccountToken": "token-after-rotation", "caCert": cluster.other_ca_cert}, operator)

    assert changed.status == 200, changed
    assert changed.json["lastProbe"]["ok"]
    assert "token-after-rotation" not in changed.text
    kept = json.loads(stack.secret("sim-rotating"))
    assert (kept["token"], kept["caCert"]) == ("token-after-rotation", cluster.other_ca_cert)
    before = len([it for it in cluster.requests("rotation") if it["status"] == 200])
    assert deployment.execution.wait()["status"] == "SUCCEEDED"
    seen_on(cluster, "rotation", before + 1)


def test_an_unknown_cluster_is_refused_by_name(stack, events, registered, start):
    deployment = start({
        "deploymentId": "unknown-cluster", "helmType": "flux",
        "targets": [{"cluster": "nowhere", "namespace": "e2e", "release": "shop"}],
    }, "run-of-unknown-cluster")

    ended = deployment.execution.wait()

    assert (ended["status"], ended["error"]) == ("FAILED", "InvalidRequest")
    assert "nowhere" in ended["cause"] and "/targets/0/cluster" in ended["cause"]
    item = stack.item("unknown-cluster")
    assert (item["status"], item["reason"], item["message"]) == ("failed", "InvalidRequest", ended["cause"])
    assert (item["executionArn"], item["targets"]) == (deployment.execution.arn, "[]")
    assert events.of("unknown-cluster")[0]["reason"] == "InvalidRequest"


@pytest.mark.parametrize(("name", "given", "said"), [
    ("unknown-field", {"tragets": []}, "tragets"),
    ("bad-timeout", {"timeoutSecs": 5}, "/timeoutSecs"),
    ("no-targets", {"targets": []}, "/targets"),
])
def test_a_wrong_input_is_refused_by_field(stack, registered, start, name, given, said):
    request = {"helmType": "flux", "targets": [{"cluster": "sim-eu", "release": "shop"}], **given}

    deployment = start(request, name)

    ended = deployment.execution.wait()
    assert (ended["status"], ended["error"]) == ("FAILED", "InvalidRequest")
    assert said in ended["cause"]
    # Without a deploymentId it is the execution's name.
    assert stack.item(name)["reason"] == "InvalidRequest"


@pytest.mark.parametrize("name", BY_ID)
def test_verdict(deployments, stack, events, name):
    case, deployment = BY_ID[name], deployments[name]

    ended = deployment.execution.wait()

    item = stack.item(name)
    assert item["status"] == case.status, item["message"]
    assert item["reason"] in (case.reason, case.between_writes), item["message"]
    assert item["executionArn"] == deployment.execution.arn
    assert item["finishedAt"] and item["expiresAt"] > time.time() + 80 * 86_400
    assert tuple(it["status"] for it in json.loads(item["targets"])) == (case.each or (case.status,))

    if case.error:
        assert (ended["status"], ended["error"]) == ("FAILED", case.error)
        assert ended["cause"] == item["message"]
    else:
        assert ended["status"] == "SUCCEEDED"

    told = events.of(name)
    assert all((it["status"], it["reason"], it["message"]) == (case.status, item["reason"], item["message"])
               for it in told)
    if not case.error:
        assert told[0] == json.loads(ended["output"])
    assert [it["cluster"] for it in told[0]["targets"]] == [it["cluster"] for it in deployment.request["targets"]]


def test_an_item_holds_all_that_is_known(deployments, stack, clusters):
    deployment = deployments["one-of-two-fails"]
    deployment.execution.wait()
    item = stack.item(deployment.id)

    assert item["schema"] == 1
    assert item["rev"] >= 1 and item["polls"] >= 2 and item["digest"]
    started, deadline, finished = (
        datetime.fromisoformat(item[it].replace("Z", "+00:00")) for it in ("startedAt", "deadline", "finishedAt"))
    assert (deadline - started).total_seconds() == 300
    assert started < finished < deadline
    request = json.loads(item["request"])
    assert [it["cluster"] for it in request["targets"]] == ["Sim eu", "Sim us"]
    # The address of the first look is pinned; the token is not here.
    targets = json.loads(item["targets"])
    assert [it["apiUrl"] for it in targets] == [clusters["eu"].api_url, clusters["us"].api_url]
    assert [it["clusterId"] for it in targets] == ["sim-eu", "sim-us"]


def test_the_event_is_the_contract(deployments, stack, events):
    deployments["flux-success"].execution.wait()
    events.of("flux-success")
    for it in [it for it in events.seen if it["detail"]["deploymentId"] == "flux-success"]:
        assert (it["source"], it["detail-type"]) == ("dag-monitor", "Deployment Finished")
        assert set(it["detail"]) == {
            "deploymentId", "status", "reason", "lastReason", "evidence", "message", "startedAt", "deadline",
            "checkedAt", "finishedAt", "polls", "targets",
        }


def test_a_timeout_keeps_what_it_waited_for(deployments, stack):
    deployments["timeout"].execution.wait()
    item = stack.item("timeout")
    assert item["lastReason"] == "DependencyNotReady"
    assert "15 s" in item["message"]


@pytest.mark.parametrize("name", ["flux-success", "flux-failure", "plain-rolled-back", "timeout"])
def test_there_are_five_seconds_between_two_checks(deployments, stack, name):
    """By the machine's own words and the history's times: a wait may take longer than 5 s, never less."""
    execution = deployments[name].execution
    ended = execution.wait()
    machine = stack.client("stepfunctions").describe_state_machine_for_execution(executionArn=execution.arn)
    # Deployed with the parameter's default.
    assert json.loads(machine["definition"])["States"]["Wait"]["Seconds"].startswith("{% 5 <= 5 ? 5 : ")

    states = execution.entered()
    checks = states.count("Check")
    assert checks >= 2
    assert states[:3 * checks] == ["Check", "Judged?", "Wait"] * (checks - 1) + ["Check", "Judged?", "Publish"]
    assert states[3 * checks:] == ["End", {
        "UpgradeSucceeded": "Succeeded", "Timeout": "TimedOut"}.get(BY_ID[name].reason, "Failed")]

    times = {"WaitStateEntered": [], "WaitStateExited": []}
    for it in execution.history():
        if it["type"] in times:
            times[it["type"]].append(it["timestamp"])
    waits = [(end - begin).total_seconds() for begin, end in zip(*times.values(), strict=True)]
    assert len(waits) == checks - 1
    assert all(it >= 4.99 for it in waits), waits
    assert ended["stopDate"] > ended["startDate"]


def test_nothing_stays_pending(deployments, stack):
    """After all of the above, every item has its end."""
    for it in deployments.values():
        it.execution.wait()
    pages = stack.client("dynamodb").get_paginator("scan").paginate(TableName=stack.outputs["DeploymentsTableName"])
    open_ones = [it["deploymentId"]["S"] for page in pages for it in page["Items"] if it["status"]["S"] == "pending"]
    assert open_ones == []


def test_no_ending_was_left_behind(deployments, stack):
    """The queue for what the check function could not close is empty."""
    attributes = stack.client("sqs").get_queue_attributes(
        QueueUrl=stack.outputs["UnclosedQueueUrl"], AttributeNames=["ApproximateNumberOfMessages"])
    assert attributes["Attributes"]["ApproximateNumberOfMessages"] == "0"
