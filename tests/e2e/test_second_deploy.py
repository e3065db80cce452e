"""The same stack deployed again with another parameter: a KMS key for the clusters' secrets.

The emulator keeps the key's name with a secret and encrypts nothing, so the rights on the key are read, not tried.
"""

import json

import pytest
from conftest import cluster_body
from test_rights import action_patterns, statements


@pytest.fixture(scope="module")
def key(stack, operator, clusters, registered) -> str:
    """The key's ARN. Before it is given a cluster is registered that keeps its secret without one."""
    assert stack.request("POST", "/clusters", cluster_body("Moved", clusters["us"]), operator).status == 201
    assert key_of(stack, "moved") is None
    arn = stack.client("kms").create_key(Description="of the clusters' secrets")["KeyMetadata"]["Arn"]
    stack.deploy(SecretKmsKeyArn=arn)
    return arn


def key_of(stack, cluster: str):
    described = stack.client("secretsmanager").describe_secret(SecretId=f"e2e/clusters/{cluster}/credentials")
    return described.get("KmsKeyId")


def test_a_new_secret_is_sealed_with_the_key(key, stack, operator, clusters):
    assert stack.request("POST", "/clusters", cluster_body("Sealed", clusters["us"]), operator).status == 201
    assert key_of(stack, "sealed") == key
    assert stack.request("POST", "/clusters/sealed/probe", credentials=operator).status == 200


def test_a_secret_comes_to_the_key_with_its_next_change(key, stack, operator, clusters):
    assert key_of(stack, "moved") is None
    us = clusters["us"]
    changed = stack.request("PUT", "/clusters/moved", {"serviceAccountToken": us.token}, operator)
    assert changed.status == 200, changed
    assert key_of(stack, "moved") == key
    assert json.loads(stack.secret("moved"))["token"] == us.token


def test_a_deleted_one_is_restored_under_the_key(key, stack, operator, clusters):
    assert stack.request("DELETE", "/clusters/sealed", credentials=operator).status == 204
    assert stack.request("POST", "/clusters", cluster_body("Sealed", clusters["us"]), operator).status == 201
    assert key_of(stack, "sealed") == key


def test_a_check_reads_what_is_sealed(key, stack):
    answer, failed = stack.invoke("CheckFunctionName", {
        "deploymentId": "sealed", "helmType": "flux",
        "targets": [{"cluster": "sealed", "namespace": "e2e", "release": "nothing"}]})
    assert (failed, answer["status"], answer["reason"]) == (False, "pending", "NotFound"), answer


@pytest.mark.parametrize(("role", "more"), [
    ("check", {"kms:Decrypt"}),
    ("register", {"kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "secretsmanager:UpdateSecret"}),
    ("machine", set()),
])
def test_the_key_opens_little(key, stack, role, more):
    """Of the key, and through Secrets Manager alone."""
    granted = [it for it in statements(stack, role) if action_patterns(it) & {
        *more, "kms:*", "*", "kms:CreateGrant", "kms:Decrypt", "secretsmanager:UpdateSecret"}]
    assert set().union(*map(action_patterns, granted)) == more
    for it in granted:
        if any(action.startswith("kms:") for action in action_patterns(it)):
            assert it["Resource"] in (key, [key])
            assert it["Condition"] == {"StringEquals": {
                "kms:ViaService": "secretsmanager.eu-central-1.amazonaws.com"}}


def test_the_registry_outlives_the_update(key, stack, operator, registered):
    shown = stack.request("GET", "/clusters/sim-eu", credentials=operator).json
    assert shown["createdAt"] == registered["eu"].json["createdAt"]
