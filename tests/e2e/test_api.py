"""The API over HTTP: its routes, clusters, and what they leave in the stores."""

import json
import urllib.parse

import pytest
from botocore.credentials import Credentials
from document import DOCUMENT, filled, routes

TOKEN = "a-token-that-must-stay-secret"


@pytest.fixture(scope="module")
def shop(stack, operator):
    """A cluster that nobody asks: its address is no machine's."""
    answer = stack.request("POST", "/clusters?probe=false", cluster("Shop"), operator)
    assert answer.status == 201, answer
    return answer


def pointers(answer) -> list[str]:
    return [it["pointer"] for it in answer.json["errors"]]


def cluster(name: str, **more) -> dict:
    return {"name": name, "apiUrl": "https://k8s.example.com:6443", "serviceAccountToken": TOKEN, **more}


@pytest.mark.parametrize(("method", "path"), routes())
def test_every_route_refuses_an_unsigned_call(stack, operator, method, path):
    path = filled(path)
    body = {} if method in ("POST", "PUT") else None

    assert stack.request(method, path, body).status == 403
    wrong = Credentials(operator.access_key, "not-the-secret")
    assert stack.request(method, path, body, wrong).status == 403
    # And it is a route: the signed call gets through to the function, whatever that says to it.
    assert stack.request(method, path, body, operator).status != 403


@pytest.mark.parametrize(("method", "path"), routes())
def test_a_signature_alone_is_not_enough(stack, deployer, method, path):
    """IAM lets in who may call the API, not everybody with an account."""
    body = {} if method in ("POST", "PUT") else None
    assert stack.request(method, filled(path), body, deployer).status == 403


def test_the_document_is_served(stack, operator):
    """As it stands in infra/openapi.yaml, without what is for API Gateway alone."""
    served = stack.request("GET", "/openapi.json", credentials=operator)
    assert (served.status, served.headers["content-type"]) == (200, "application/json")
    assert served.json == without_gateway(DOCUMENT)
    assert served.json["openapi"] == "3.0.3" and "x-amazon" not in served.text and "Fn::" not in served.text


def without_gateway(it):
    if isinstance(it, list):
        return [without_gateway(each) for each in it]
    if not isinstance(it, dict):
        return it
    return {key: without_gateway(value) for key, value in it.items() if not key.startswith("x-amazon-apigateway-")}


def test_a_cluster_is_registered(stack, clusters, registered):
    answer = registered["eu"]
    shown = answer.json
    assert (shown["id"], shown["name"], shown["apiUrl"]) == ("sim-eu", "Sim eu", clusters["eu"].api_url)
    assert shown["caCert"]["sha256Fingerprint"] and shown["caCert"]["notAfter"]
    assert shown["token"] == {"issuer": None, "subject": None, "expiresAt": None}
    assert clusters["eu"].token not in answer.text


def test_a_cluster_stands_in_one_secret_and_one_row(stack, clusters, registered):
    """Token, CA and address together, for whoever can edit the row must not be able to send the token elsewhere."""
    eu, shown = clusters["eu"], registered["eu"].json
    assert [it for it in stack.secret_names() if "sim-eu" in it] == ["e2e/clusters/sim-eu/credentials"]
    assert json.loads(stack.secret("sim-eu")) == {
        "id": "sim-eu", "apiUrl": eu.api_url, "token": eu.token, "caCert": eu.ca_cert, "namespaces": [],
    }

    row = stack.registry_row("sim-eu")
    assert row.pop("nonce")
    assert row.pop("lastProbe")
    assert row == {
        "kind": "cluster", "id": "sim-eu", "name": "Sim eu", "apiUrl": eu.api_url, "state": "active", "namespaces": [],
        "caFingerprint": shown["caCert"]["sha256Fingerprint"], "caNotAfter": shown["caCert"]["notAfter"],
        "createdAt": shown["createdAt"], "updatedAt": shown["updatedAt"],
    }


def test_a_cluster_is_shown(stack, operator, shop):
    shown = stack.request("GET", "/clusters/shop", credentials=operator)
    registered = {key: value for key, value in shop.json.items() if key != "warnings"}
    assert (shown.status, shown.json) == (200, registered)
    assert (registered["caCert"], registered["lastProbe"], registered["state"]) == (None, None, "active")


def test_clusters_are_listed_a_page_at_a_time(stack, operator, registered, shop):
    found, token = [], None
    for _ in range(20):
        query = "?limit=2" + (f"&nextToken={urllib.parse.quote(token, safe='')}" if token else "")
        page = stack.request("GET", f"/clusters{query}", credentials=operator)
        assert page.status == 200, page
        assert len(page.json["clusters"]) <= 2
        found += [it["id"] for it in page.json["clusters"]]
        token = page.json.get("nextToken")
        if not token:
            break
    assert found == sorted(found)
    assert {"shop", "sim-eu", "sim-us", "sim-rotating"} <= set(found)


@pytest.mark.parametrize(("body", "status", "said"), [
    (cluster("SHOP"), 409, ""),
    (cluster("Plain text", apiUrl="http://k8s.example.com"), 422, "/apiUrl"),
    (cluster("Metadata", apiUrl="https://169.254.169.254"), 422, "/apiUrl"),
    (cluster("Bad CA", caCert="nonsense"), 422, "/caCert"),
    (cluster("Extra", colour="red"), 422, "colour"),
    ({"name": "No token", "apiUrl": "https://k8s.example.com"}, 422, "serviceAccountToken"),
    (b"{", 400, ""),
    (b"[" + b" " * 1_000_000 + b"]", 413, ""),
])
def test_what_is_wrong_is_said(stack, operator, shop, body, status, said):
    answer = stack.request("POST", "/clusters", body, operator)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json"), answer
    assert answer.json["status"] == status and answer.json["title"]
    assert said in answer.text
    assert TOKEN not in answer.text


def test_a_body_must_be_json(stack, operator):
    answer = stack.request("POST", "/clusters", b"name=x", operator, content_type="application/x-www-form-urlencoded")
    assert (answer.status, answer.headers["content-type"]) == (415, "application/problem+json")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_an_unknown_cluster_is_not_found(stack, operator, method):
    body = {"serviceAccountToken": TOKEN} if method == "PUT" else None
    answer = stack.request(method, "/clusters/nobody", body, operator)
    assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")


def test_a_new_address_needs_the_token(stack, operator, shop):
    """Nothing stored is ever sent to a new destination."""
    elsewhere = {"apiUrl": "https://elsewhere.example.com"}
    for query in ("", "?probe=false"):
        refused = stack.request("PUT", f"/clusters/shop{query}", elsewhere, operator)
        assert (refused.status, pointers(refused)) == (422, ["/serviceAccountToken"]), refused
    refused = stack.request("PUT", "/clusters/shop?probe=false", {"tlsServerName": "elsewhere"}, operator)
    assert (refused.status, pointers(refused)) == (422, ["/serviceAccountToken"]), refused
    assert "elsewhere" not in stack.secret("shop")

    changed = stack.request("PUT", "/clusters/shop?probe=false", {**elsewhere, "serviceAccountToken": TOKEN + "-2"}, operator)
    assert (changed.status, changed.json["apiUrl"]) == (200, "https://elsewhere.example.com")
    assert "elsewhere" in stack.secret("shop") and TOKEN + "-2" in stack.secret("shop")
    assert changed.json["createdAt"] == shop.json["createdAt"]


def test_a_deleted_cluster_can_be_registered_again(stack, operator):
    """Although its secret is still in the recovery window."""
    assert stack.request("POST", "/clusters?probe=false", cluster("Short lived"), operator).status == 201
    assert stack.request("DELETE", "/clusters/short-lived", credentials=operator).status == 204
    assert stack.request("GET", "/clusters/short-lived", credentials=operator).status == 404
    described = stack.client("secretsmanager").describe_secret(SecretId="e2e/clusters/short-lived/credentials")
    assert described["DeletedDate"]

    again = stack.request("POST", "/clusters?probe=false", {
        **cluster("Short lived"), "serviceAccountToken": "another-token-than-before"}, operator)

    assert again.status == 201
    assert "another-token-than-before" in stack.secret("short-lived")
