"""Who may do what: the stack's managed policies, and the namespaces that a cluster leaves open."""

import json

import pytest
from botocore.exceptions import ClientError
from conftest import cluster_body, seen_on, until_stored
from document import filled, routes

POLICIES = ("registrar", "deployer", "reader")
R, D, L = "registrar", "deployer", "reader"

# Every route, and whose policies allow it. Nobody else's do.
ROUTES = {
    ("POST", "/clusters"): {R},
    ("GET", "/clusters"): {R, L},
    ("GET", "/clusters/{id}"): {R, L},
    ("PUT", "/clusters/{id}"): {R},
    ("DELETE", "/clusters/{id}"): {R},
    ("POST", "/clusters/{id}/probe"): {R},
    ("GET", "/apps/{app}/environments"): {R, D, L},
    ("PUT", "/apps/{app}/environments/{environment}"): {R},
    ("GET", "/apps/{app}/environments/{environment}"): {R, D, L},
    ("DELETE", "/apps/{app}/environments/{environment}"): {R},
    ("POST", "/deployments"): {D},
    ("GET", "/deployments"): {R, D, L},
    ("GET", "/deployments/{id}"): {R, D, L},
    ("GET", "/openapi.json"): {R, D, L},
}


@pytest.fixture(scope="module")
def users(stack):
    """Three users, each with exactly one of the policies."""
    return {it: stack.user_with(f"only-{it}", stack.outputs[f"{it.capitalize()}PolicyArn"]) for it in POLICIES}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_policy_opens_its_routes_and_no_other(stack, users, method, path, policy):
    body = {} if method in ("POST", "PUT") and not path.endswith("/probe") else None
    answer = stack.request(method, filled(path), body, users[policy])
    assert (answer.status != 403) == (policy in ROUTES[method, path]), answer


def test_the_table_has_every_route():
    assert sorted(ROUTES) == sorted(routes())


def denied(call, **arguments) -> bool:
    """Whether it is IAM that refuses; every other error is none of its."""
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["Error"]["Code"] in ("AccessDenied", "AccessDeniedException")
    return False


@pytest.mark.parametrize("policy", POLICIES)
def test_only_deployers_start_and_stop_executions(stack, users, registered, policy):
    states = stack.client("stepfunctions", users[policy])
    machine, name = stack.outputs["StateMachineArn"], f"started-by-{policy}"
    execution = machine.replace(":stateMachine:", ":execution:") + f":{name}"
    request = {"helmType": "flux", "targets": [{"cluster": "sim-eu", "namespace": "e2e", "release": "nothing"}]}
    refused = [
        denied(states.start_execution, stateMachineArn=machine, name=name, input=json.dumps(request)),
        denied(states.describe_execution, executionArn=execution),
        denied(states.stop_execution, executionArn=execution),
    ]
    assert refused == [policy != D] * 3
    # Not even whose deployments there are of another state machine.
    assert denied(states.list_state_machines)


@pytest.mark.parametrize("policy", POLICIES)
def test_nobody_gets_behind_the_api(stack, users, registered, policy):
    def client(service):
        return stack.client(service, users[policy])

    assert denied(client("secretsmanager").get_secret_value, SecretId="e2e/clusters/sim-eu/credentials")
    for table in ("RegistryTableName", "DeploymentsTableName"):
        assert denied(client("dynamodb").scan, TableName=stack.outputs[table])
    for function in ("CheckFunctionName", "RegisterFunctionName"):
        assert denied(client("lambda").invoke, FunctionName=stack.outputs[function], Payload=b"{}")
    entry = {"Source": "dag-monitor", "DetailType": "Deployment Finished", "Detail": "{}",
             "EventBusName": stack.outputs["EventBusName"]}
    assert denied(client("events").put_events, Entries=[entry])


# Namespaces -------------------------------------------------------------------------------------------------------


def flux(cluster: str, release: str, namespace: str) -> dict:
    return {"helmType": "flux", "targets": [{"cluster": cluster, "namespace": namespace, "release": release}]}


@pytest.fixture(scope="module")
def narrow(stack, users, clusters):
    """A cluster of which two kinds of namespaces are open."""
    body = cluster_body("Narrow", clusters["eu"], namespaces=["e2e", "team-*"])
    answer = stack.request("POST", "/clusters", body, users[R])
    assert (answer.status, answer.json["namespaces"]) == (201, ["e2e", "team-*"]), answer
    return answer


def test_an_environment_outside_is_refused(stack, users, narrow):
    path = "/apps/tenants/environments/production"
    refused = stack.request("PUT", path, flux("narrow", "shop", "kube-system"), users[R])
    assert (refused.status, [it["pointer"] for it in refused.json["errors"]]) == (422, ["/targets/0/namespace"])
    assert "kube-system" in refused.json["detail"] and "team-*" in refused.json["detail"]
    assert stack.request("PUT", path, flux("narrow", "shop", "team-a"), users[R]).status == 201
    assert stack.request("DELETE", path, credentials=users[R]).status == 204


def test_a_deployment_outside_is_refused_whichever_way_it_is_started(stack, users, narrow, clusters):
    before = stack.executions()
    refused = stack.request("POST", "/deployments", flux("Narrow", "outside", "kube-system"), users[D])
    assert (refused.status, [it["pointer"] for it in refused.json["errors"]]) == (422, ["/targets/0/namespace"])
    assert stack.executions() == before

    stack.client("stepfunctions", users[D]).start_execution(
        stateMachineArn=stack.outputs["StateMachineArn"], name="outside",
        input=json.dumps(flux("Narrow", "outside", "kube-system")))
    ended = stack.execution("outside").wait()
    assert (ended["status"], ended["error"]) == ("FAILED", "InvalidRequest")
    assert "kube-system" in ended["cause"] and "/targets/0/namespace" in ended["cause"]
    assert clusters["eu"].requests("outside") == []


def test_what_is_closed_while_a_deployment_runs_is_not_asked_any_more(stack, users, clusters, events):
    eu = clusters["eu"]
    body = cluster_body("Closing", eu)
    assert stack.request("POST", "/clusters", body, users[R]).status == 201
    pushed = eu.play("flux/waits-for-dependency", "closing")
    request = {"deploymentId": "closing", "pushedAt": pushed, **flux("Closing", "closing", "e2e")}
    assert stack.request("POST", "/deployments", request, users[D]).status == 202
    seen_on(eu, "closing")
    until_stored(stack, "closing")

    narrowed = stack.request("PUT", "/clusters/closing", {"namespaces": ["team-*"]}, users[R])
    assert (narrowed.status, narrowed.json["namespaces"]) == (200, ["team-*"]), narrowed
    assert json.loads(stack.secret("closing"))["namespaces"] == ["team-*"]
    # A process keeps credentials for ten minutes. This makes a new one.
    with stack.variables("CheckFunctionName", RUST_LOG="info"):
        ended = stack.execution("closing").wait()

    assert (ended["status"], ended["error"]) == ("FAILED", "DeploymentFailed")
    assert "namespace e2e" in ended["cause"] and "closing" in ended["cause"] and "team-*" in ended["cause"]
    shown = stack.request("GET", "/deployments/closing", credentials=users[L]).json
    assert (shown["status"], shown["reason"]) == ("failed", "NamespaceNotAllowed")
    assert events.of("closing")[0]["reason"] == "NamespaceNotAllowed"


def test_whoever_can_edit_the_table_opens_nothing(stack, users, narrow, clusters):
    """What is enforced at every check stands in the secret."""
    stack.client("dynamodb").update_item(
        TableName=stack.outputs["RegistryTableName"], Key={"kind": {"S": "cluster"}, "id": {"S": "narrow"}},
        UpdateExpression="SET namespaces = :all", ExpressionAttributeValues={":all": {"L": []}})
    request = {"deploymentId": "opened", "timeoutSecs": 60, **flux("Narrow", "opened", "kube-system")}
    assert stack.request("POST", "/deployments", request, users[D]).status == 202
    ended = stack.execution("opened").wait()
    assert (ended["status"], stack.item("opened")["reason"]) == ("FAILED", "NamespaceNotAllowed")
    assert clusters["eu"].requests("opened") == []
