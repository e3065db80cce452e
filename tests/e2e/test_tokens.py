"""A token that was registered is in its secret, and nowhere else. The last file: it looks at what all others left."""

import json
import time
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path

import pytest
from conftest import cluster_body

EVENT = (Path(__file__).parents[2] / "infra/events/scheduled-probe.json").read_bytes()


@pytest.fixture(scope="module")
def everything_is_logged(stack, operator, clusters, registered, events, start):
    """Registrations, probes, refusals, deployments and a daily probe, both functions at the most talkative level."""
    cluster = clusters["eu"]
    with (stack.variables("RegisterFunctionName", RUST_LOG="trace"),
          stack.variables("CheckFunctionName", RUST_LOG="trace")):
        body = {"name": "Traced", "apiUrl": cluster.api_url, "serviceAccountToken": cluster.token,
                "caCert": cluster.ca_cert}
        assert stack.request("POST", "/clusters", body, operator).status == 201
        assert stack.request("POST", "/clusters", {**body, "caCert": "nonsense"}, operator).status == 422
        wrong = {"serviceAccountToken": "a-token-that-the-cluster-refuses"}
        assert stack.request("PUT", "/clusters/traced", wrong, operator).status == 422
        for fault in ("html", "wrongKind", "truncated", "brokenJson", "reset", {"status": {"code": 500}}):
            with clusters["odd"].fault(fault):
                failing = cluster_body("Never there", clusters["odd"])
                assert stack.request("POST", "/clusters", failing, operator).status in (422, 503)
        # A JWT of which the claims are shown; nobody signed it.
        claims = {"iss": "https://issuer.example.com", "sub": "system:serviceaccount:dag-monitor:dag-monitor",
                  "exp": int(time.time()) + 86_400}
        jwt = ".".join(urlsafe_b64encode(it.encode()).decode().rstrip("=") for it in (
            '{"alg":"RS256"}', json.dumps(claims), "a signature that must stay secret as well"))
        shown = stack.request(
            "POST", "/clusters?probe=false", {**body, "name": "Traced JWT", "serviceAccountToken": jwt}, operator)
        assert shown.json["token"]["subject"] == claims["sub"] and any("expires" in it for it in shown.json["warnings"])
        assert stack.request("PUT", "/clusters/traced?probe=false", wrong, operator).status == 200
        probed, failed = stack.invoke("RegisterFunctionName", EVENT)
        assert not failed and probed["attention"] >= 1, probed
        events.about_cluster("traced-jwt")
        assert stack.request("PUT", "/apps/traced/environments/traced-environment", {
            "helmType": "flux", "targets": [{"cluster": "traced", "namespace": "e2e", "release": "traced"}],
        }, operator).status == 201
        pushed = cluster.play("flux/chart-upgrade", "traced", push_in_ms=3000)
        request = {"deploymentId": "traced", "app": "traced", "environment": "traced-environment",
                   "pushedAt": pushed, "timeoutSecs": 120}
        deployment = start(request, "run-of-traced")
        deadline = time.monotonic() + 60
        while not [it for it in cluster.requests("traced") if it["status"] == 401]:
            assert time.monotonic() < deadline, "the cluster has refused nobody"
            time.sleep(0.2)
        assert stack.request(
            "PUT", "/clusters/traced", {"serviceAccountToken": cluster.token}, operator).status == 200
        assert deployment.execution.wait()["status"] == "SUCCEEDED"
        events.of("traced")
        assert stack.request("POST", "/deployments", request, operator).status == 202
        assert stack.request(
            "GET", "/deployments?app=traced&environment=traced-environment", credentials=operator).status == 200


def forms(token: str):
    """As it is, and as it stands within something that was encoded as a whole."""
    yield token
    for encode in (b64encode, urlsafe_b64encode):
        for before in range(3):
            # Characters at the ends are made of the neighbours, too.
            text = encode(b"\0" * before + token.encode()).decode()
            yield text[-(-before * 8 // 6):(before + len(token)) * 8 // 6]


def places(stack, emulator, events):
    """Everything that somebody can read who may not read the secrets."""
    yield "log", emulator.log.read_text()

    logs = stack.client("logs")
    for page in logs.get_paginator("describe_log_groups").paginate():
        for group in page["logGroups"]:
            for found in logs.get_paginator("filter_log_events").paginate(logGroupName=group["logGroupName"]):
                yield group["logGroupName"], json.dumps([it["message"] for it in found["events"]])

    dynamo = stack.client("dynamodb")
    for name in dynamo.list_tables()["TableNames"]:
        for page in dynamo.get_paginator("scan").paginate(TableName=name):
            yield name, json.dumps(page["Items"], default=str)

    states = stack.client("stepfunctions")
    for page in states.get_paginator("list_executions").paginate(stateMachineArn=stack.outputs["StateMachineArn"]):
        for execution in page["executions"]:
            for part in states.get_paginator("get_execution_history").paginate(executionArn=execution["executionArn"]):
                yield execution["name"], json.dumps(part["events"], default=str)

    for page in stack.client("cloudwatch").get_paginator("list_metrics").paginate():
        yield "metrics", json.dumps(page["Metrics"])
    # What was left in a queue, which is a whole event: a request of the API's holds a token.
    for url in stack.client("sqs").list_queues().get("QueueUrls", []):
        messages = stack.client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0)
        yield url, json.dumps(messages.get("Messages", []))

    yield "events", json.dumps(events.seen)
    yield "answers", "\n".join(stack.answers)
    for name in stack.secret_names():
        yield f"about {name}", json.dumps(stack.client("secretsmanager").describe_secret(SecretId=name), default=str)
    for output in ("CheckFunctionName", "RegisterFunctionName"):
        yield output, json.dumps(stack.function(output), default=str)


def test_no_token_is_anywhere_but_in_its_secret(everything_is_logged, stack, emulator, events, clusters):
    tokens = stack.tokens | {it.token for it in clusters.values()}
    # A signature is what makes a token one.
    tokens |= {it.rsplit(".", 1)[1] for it in tokens if it.count(".") == 2}
    assert len(tokens) >= 10 and all(len(it) > 15 for it in tokens)
    # That nothing is found says something only where everything is there to be searched: what each place must have.
    groups = [stack.function(it)["LoggingConfig"]["LogGroup"] for it in ("CheckFunctionName", "RegisterFunctionName")]
    known = {
        groups[0]: "HelmRelease e2e/traced", groups[1]: "CloudWatchMetrics", "answers": "lastProbe",
        "events": "Cluster Needs Attention",
        "run-of-traced": "traced", stack.outputs["RegistryTableName"]: "traced-environment",
        stack.outputs["DeploymentsTableName"]: "traced", "log": "ministack",
    }
    seen = dict.fromkeys(known, "")

    for place, text in places(stack, emulator, events):
        for token in tokens:
            assert not [it for it in forms(token) if it in text], f"a token is in {place}"
        if place in seen:
            seen[place] += text

    assert [place for place, text in known.items() if text not in seen[place]] == []


def test_the_search_finds_what_is_there(stack):
    """In the secret the token is found, whatever is before it, and so it would be elsewhere."""
    secret, token = stack.secret("traced"), json.loads(stack.secret("traced"))["token"]
    assert token in secret
    for before in range(3):
        encoded = b64encode(b"x" * before + secret.encode()).decode()
        assert any(it in encoded for it in forms(token))
