"""Environments of apps, and deployments that are started by them and through the API."""

import json
import urllib.parse

import pytest
from conftest import cluster_body, seen_on, until_stored

SHOP = "/apps/shop/environments"


def target(cluster: str, release: str, namespace: str = "e2e") -> dict:
    return {"cluster": cluster, "namespace": namespace, "release": release}


def environment(*targets: dict, **more) -> dict:
    return {"helmType": "flux", "targets": list(targets), **more}


def pointers(answer) -> list[str]:
    return [it["pointer"] for it in answer.json["errors"]]


@pytest.fixture(scope="module")
def call(stack, operator):
    """A request of the operator's."""
    def call(method: str, path: str, body=None):
        return stack.request(method, path, body, operator)

    return call


@pytest.fixture(scope="module", autouse=True)
def everything(registered, events):
    """All tests here need the clusters, and somebody who hears of the ends."""


# Environments ---------------------------------------------------------------------------------------------------


def test_the_life_of_an_environment(call, stack):
    path = f"{SHOP}/life"
    made = call("PUT", path, environment(target("Sim eu", "checkout"), timeoutSecs=600))
    assert (made.status, made.headers["location"]) == (201, path), made
    shown = made.json
    assert (shown["app"], shown["environment"], shown["helmType"]) == ("shop", "life", "flux")
    assert (shown["targets"], shown["timeoutSecs"]) == ([target("Sim eu", "checkout")], 600)
    assert call("GET", path).json == shown

    changed = call("PUT", path, environment({"cluster": "sim-us", "release": "checkout"}))
    assert (changed.status, "location" in changed.headers) == (200, False), changed
    assert (changed.json["targets"], changed.json["timeoutSecs"]) == ([target("sim-us", "checkout", "default")], None)
    assert (changed.json["createdAt"], changed.json["updatedAt"] > shown["updatedAt"]) == (shown["createdAt"], True)
    row = stack.registry_row("shop#life", "environment")
    assert (row["app"], row["environment"], row["helmType"]) == ("shop", "life", "flux")

    assert call("DELETE", path).status == 204
    assert [call(method, path).status for method in ("GET", "DELETE")] == [404, 404]
    assert stack.registry_row("shop#life", "environment") is None


def test_environments_are_listed_a_page_at_a_time(call):
    names = ["a", "b", "c", "d", "e"]
    for name in reversed(names):
        assert call("PUT", f"/apps/listed/environments/{name}", environment(target("sim-eu", name))).status == 201
    # Names of other apps that begin alike aren't among them.
    assert call("PUT", "/apps/listed-2/environments/a", environment(target("sim-eu", "a"))).status == 201
    found, token = [], None
    for _ in names:
        query = "?limit=2" + (f"&nextToken={urllib.parse.quote(token, safe='')}" if token else "")
        page = call("GET", f"/apps/listed/environments{query}")
        assert (page.status, len(page.json["environments"]) <= 2) == (200, True), page
        found += [it["environment"] for it in page.json["environments"]]
        token = page.json["nextToken"]
        if not token:
            break
    assert found == names
    assert call("GET", "/apps/nobody/environments").json == {"environments": [], "nextToken": None}


def test_what_is_wrong_with_an_environment_is_said(call, stack):
    for body, said in [
        (environment(), ["/targets"]),
        (environment(target("nowhere", "a"), target("sim-eu", "a"), target("Sim/eu", "b")),
         ["/targets/0/cluster", "/targets/2/cluster"]),
        (environment(target("sim-eu", "a"), target("Sim eu", "a")), ["/targets/1"]),
        ({"helmType": "argo", "targets": [target("sim-eu", "A b")], "timeoutSecs": 1, "failFast": True},
         ["/failFast", "/helmType", "/targets/0/release", "/timeoutSecs"]),
    ]:
        answer = call("PUT", f"{SHOP}/wrong", body)
        assert (answer.status, pointers(answer)) == (422, said), answer
    twice = b'{"helmType": "flux", "helmType": "plain", "targets": [{"cluster": "sim-eu", "release": "a"}]}'
    answer = call("PUT", f"{SHOP}/wrong", twice)
    assert (answer.status, pointers(answer)) == (422, ["/helmType"]), answer
    assert call("PUT", "/apps/Shop/environments/wrong", environment(target("sim-eu", "a"))).status == 422
    assert stack.registry_row("shop#wrong", "environment") is None


def test_a_cluster_in_use_stays(call, stack, clusters):
    assert call("POST", "/clusters", cluster_body("Used", clusters["eu"])).status == 201
    assert call("PUT", f"{SHOP}/uses", environment(target("Used", "checkout"))).status == 201

    refused = call("DELETE", "/clusters/used")
    assert (refused.status, refused.json["type"]) == (409, "urn:dag-monitor:problem:cluster-in-use"), refused
    assert "shop/uses" in refused.json["detail"]
    assert stack.registry_row("used")["state"] == "active" and clusters["eu"].token in stack.secret("used")

    assert call("DELETE", f"{SHOP}/uses").status == 204
    assert call("DELETE", "/clusters/used").status == 204
    refused = call("PUT", f"{SHOP}/uses", environment(target("Used", "checkout")))
    assert (refused.status, pointers(refused)) == (422, ["/targets/0/cluster"]), refused


# Deployments by an environment ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(stack, call, clusters, start):
    """One deployment started by Step Functions and one through the API, of environments that are changed and removed
    while they run. Side by side."""
    eu = clusters["eu"]
    pushed = {name: eu.play("flux/chart-upgrade", name, push_in_ms=14_000) for name in ("env-started", "env-posted")}
    for name in pushed:
        body = environment(target("Sim eu", name), timeoutSecs=240)
        assert call("PUT", f"/apps/{name}/environments/production", body).status == 201
    started = start({"app": "env-started", "environment": "production", "pushedAt": pushed["env-started"]},
                    "env-started")
    request = {"deploymentId": "env-posted", "app": "env-posted", "environment": "production",
               "pushedAt": pushed["env-posted"]}
    posted = call("POST", "/deployments", request)
    assert posted.status == 202, posted
    for name in pushed:
        seen_on(eu, name)
        until_stored(stack, name)
    elsewhere = environment(target("Sim us", "other"), helmType="plain", timeoutSecs=10)
    assert call("PUT", "/apps/env-started/environments/production", elsewhere).status == 200
    assert call("DELETE", "/apps/env-posted/environments/production").status == 204
    # All of that came while they ran.
    assert {stack.item(name)["status"] for name in pushed} == {"pending"}
    return {"env-started": started.execution, "env-posted": stack.execution("env-posted")}, request, posted


@pytest.mark.parametrize("name", ["env-started", "env-posted"])
def test_what_an_environment_resolved_to_stays(running, call, stack, events, name):
    executions, _, _ = running
    ended = executions[name].wait()
    assert ended["status"] == "SUCCEEDED", ended
    shown = call("GET", f"/deployments/{name}").json
    assert (shown["status"], shown["app"], shown["environment"]) == ("succeeded", name, "production")
    assert [{key: it[key] for key in ("cluster", "namespace", "release", "helmType")} for it in shown["targets"]] == [
        {**target("Sim eu", name), "helmType": "flux"}]
    assert json.loads(ended["output"]) == shown == events.of(name)[0]
    item = stack.item(name)
    assert item["appEnvironment"] == f"{name}#production"


def test_what_was_started_is_answered_although_its_environment_is_gone(running, call):
    _, request, posted = running
    again = call("POST", "/deployments", request)
    assert (again.status, again.headers["location"]) == (202, posted.headers["location"]), again
    # Nobody else gets in by that name any more.
    other = call("POST", "/deployments", {**request, "deploymentId": "env-posted-2"})
    assert (other.status, pointers(other)) == (422, ["/environment"]), other


def test_an_unknown_environment_is_refused_by_name(stack, start):
    ended = start({"app": "shop", "environment": "nowhere"}, "unknown-environment").execution.wait()
    assert (ended["status"], ended["error"]) == ("FAILED", "InvalidRequest")
    assert "/environment" in ended["cause"] and '"nowhere"' in ended["cause"]
    assert stack.item("unknown-environment")["reason"] == "InvalidRequest"


# Deployments through the API --------------------------------------------------------------------------------------


def test_a_start_is_refused_by_field_and_starts_nothing(call, stack, operator):
    before = stack.executions()
    for body, said in [
        ({}, ["/helmType"]),
        ({"app": "shop", "environment": "nowhere"}, ["/environment"]),
        ({"app": "shop"}, ["/environment"]),
        (environment(target("nowhere", "a")), ["/targets/0/cluster"]),
        ({**environment(target("sim-eu", "a")), "timeoutSecs": 5, "tragets": []}, ["/tragets", "/timeoutSecs"]),
        ({**environment(target("sim-eu", "a")), "execution": {"arn": "x"}}, ["/execution"]),
        ({**environment(target("sim-eu", "a")), "deploymentId": "a b"}, ["/deploymentId"]),
        ({**environment(target("sim-eu", "a")), "pushedAt": "2999-01-01T00:00:00Z"}, ["/pushedAt"]),
    ]:
        answer = call("POST", "/deployments", body)
        assert (answer.status, pointers(answer)) == (422, said), answer
    assert call("POST", "/deployments", b"{").status == 400
    assert stack.request("POST", "/deployments", b"x", operator, content_type="text/plain").status == 415
    assert stack.executions() == before


def test_what_is_unknown_is_not_found(call):
    for path in ("/deployments/unknown", "/deployments/a.b", f"/deployments/{'x' * 81}"):
        answer = call("GET", path)
        assert (answer.status, answer.json["type"]) == (404, "urn:dag-monitor:problem:unknown-deployment"), answer
    for query in ("", "?app=shop", "?app=shop&environment=Prod", "?app=shop&environment=a&nextToken=x"):
        assert call("GET", f"/deployments{query}").status == 400, query


def test_a_deployment_is_started_once_whatever_is_sent_again(call, stack, clusters, events):
    """From before its first check, which is held up, to after its end."""
    eu = clusters["eu"]
    body = {"deploymentId": "posted", "app": "posted", "environment": "labelled",
            **environment(target("Sim eu", "posted"), timeoutSecs=200),
            "pushedAt": eu.play("flux/chart-upgrade", "posted", push_in_ms=6000)}
    other = {**body, "failFast": True}
    lambdas, check = stack.client("lambda"), stack.outputs["CheckFunctionName"]
    lambdas.put_function_concurrency(FunctionName=check, ReservedConcurrentExecutions=0)
    try:
        first = call("POST", "/deployments", body)
        assert (first.status, first.headers["location"]) == (202, "/deployments/posted"), first
        assert (first.json["status"], first.json["reason"], first.json["polls"]) == ("pending", "Starting", 0)
        assert (first.json["app"], first.json["environment"]) == ("posted", "labelled")
        assert stack.item("posted") is None
        starting = call("GET", "/deployments/posted")
        assert (starting.status, starting.json["status"], starting.json["reason"]) == (200, "pending", "Starting")
        assert starting.json["deadline"] == first.json["deadline"]
        sent_again(call, stack, body, other)
    finally:
        lambdas.delete_function_concurrency(FunctionName=check)

    until_stored(stack, "posted")
    running = call("GET", "/deployments/posted").json
    assert (running["startedAt"], running["deadline"]) == (first.json["startedAt"], first.json["deadline"])
    sent_again(call, stack, body, other)
    assert stack.execution("posted").wait()["status"] == "SUCCEEDED"
    ended = call("GET", "/deployments/posted").json
    assert (ended["status"], ended["reason"]) == ("succeeded", "UpgradeSucceeded")
    assert sent_again(call, stack, body, other) == ended == events.of("posted")[0]


def sent_again(call, stack, body: dict, other: dict) -> dict:
    """The same once more is answered as the first time, another request with its id is refused; neither starts."""
    before = sorted(stack.executions())
    again = call("POST", "/deployments", dict(reversed(body.items())))
    assert (again.status, again.headers["location"]) == (202, f"/deployments/{body['deploymentId']}"), again
    conflict = call("POST", "/deployments", other)
    assert (conflict.status, conflict.json["type"]) == (409, "urn:dag-monitor:problem:deployment-id-conflict"), conflict
    assert sorted(stack.executions()) == before and before.count(body["deploymentId"]) == 1
    return again.json


def test_an_id_that_an_execution_has_used_is_taken(running, call, stack):
    """Whichever way it was started: by its own input it is the same request, by another one it is not."""
    executions, _, _ = running
    executions["env-started"].wait()
    request = json.loads(executions["env-started"].wait()["input"])
    same = call("POST", "/deployments", {"deploymentId": "env-started", **request})
    assert (same.status, same.json["status"]) == (202, "succeeded"), same
    other = call("POST", "/deployments", {"deploymentId": "env-started", **environment(target("sim-eu", "a"))})
    assert other.status == 409, other


def test_without_an_id_each_start_is_another_deployment(call, stack, clusters):
    clusters["us"].play("flux/chart-upgrade", "nameless", push_in_ms=0)
    body = {**environment(target("Sim us", "nameless")), "allowUnchanged": True}
    answers = [call("POST", "/deployments", body) for _ in range(2)]
    ids = {it.json["deploymentId"] for it in answers}
    assert [it.status for it in answers] == [202, 202] and len(ids) == 2
    assert {it.headers["location"] for it in answers} == {f"/deployments/{it}" for it in ids}
    assert ids <= set(stack.executions())
    for it in ids:
        assert stack.execution(it).wait()["status"] == "SUCCEEDED"


def test_the_history_is_paged_newest_first(call, stack, clusters, registered):
    clusters["us"].play("flux/chart-upgrade", "history", push_in_ms=0)
    ids = [f"history-{it}" for it in range(5)]
    for it in ids:
        body = {"deploymentId": it, "app": "history", "environment": "production", "allowUnchanged": True,
                **environment(target("Sim us", "history"))}
        assert call("POST", "/deployments", body).status == 202
        # So that no two begin in the same millisecond.
        until_stored(stack, it)
    for it in ids:
        stack.execution(it).wait()

    found, token = [], None
    for _ in ids:
        query = "?app=history&environment=production&limit=2"
        query += f"&nextToken={urllib.parse.quote(token, safe='')}" if token else ""
        page = call("GET", f"/deployments{query}")
        assert (page.status, len(page.json["deployments"]) <= 2) == (200, True), page
        found += page.json["deployments"]
        token = page.json["nextToken"]
        if not token:
            break
    assert [it["deploymentId"] for it in found] == ids[::-1]
    assert {(it["status"], bool(it["finishedAt"])) for it in found} == {("succeeded", True)}
    assert call("GET", "/deployments?app=history&environment=staging").json == {"deployments": [], "nextToken": None}


def test_a_refused_deployment_is_in_the_history_too(call, stack, start):
    start({"app": "refusals", "environment": "production"}, "refused-in-history").execution.wait()
    page = call("GET", "/deployments?app=refusals&environment=production").json["deployments"]
    assert [(it["deploymentId"], it["status"], it["reason"]) for it in page] == [
        ("refused-in-history", "failed", "InvalidRequest")]
