"""EKS clusters, which are entered without a stored token.

The emulator's EKS tells neither an address of ours nor a CA, so what is shown here ends where it is asked: that it is
asked under the function's role or the role on the way, and that nobody else's cluster or role is. What is made of the
answer, and the token, are held by the Rust tests of `shared/aws/src/functions/eks`.
"""

import json

import pytest
from emulator import ACCOUNT, REGION
from stack import NAME

FAR = f"arn:aws:iam::{ACCOUNT}:role/e2e-far"
PROBE_FAILED = "urn:dag-monitor:problem:probe-failed"


@pytest.fixture(scope="module", autouse=True)
def eks(stack):
    """Three clusters, of which the stack may describe one itself and another by a role; and that role."""
    service, iam = stack.client("eks"), stack.client("iam")
    iam.create_role(RoleName="eks", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "eks.amazonaws.com"}}]}))
    for name in ("e2e-near", "far", "hidden"):
        service.create_cluster(name=name, roleArn=f"arn:aws:iam::{ACCOUNT}:role/eks",
                               resourcesVpcConfig={"subnetIds": ["subnet-1a2b3c4d", "subnet-5e6f7a8b"]})
    trust = {"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Action": "sts:AssumeRole",
        "Principal": {"AWS": [stack.outputs["CheckRoleArn"], stack.outputs["RegisterRoleArn"]]},
        "Condition": {"StringEquals": {"sts:ExternalId": stack.outputs["EksExternalId"]}}}]}
    for role in ("e2e-far", "e2e-other"):
        iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps(trust))
        iam.put_role_policy(RoleName=role, PolicyName="describe", PolicyDocument=json.dumps({
            "Version": "2012-10-17", "Statement": [{
                "Effect": "Allow", "Action": "eks:DescribeCluster",
                "Resource": f"arn:aws:eks:{REGION}:{ACCOUNT}:cluster/far"}]}))
    return trust


def body(name: str, cluster: str, **more) -> dict:
    return {"name": name, "auth": {"eks": {"clusterName": cluster, "region": REGION, **more}}}


def refused(stack, operator, asked: dict) -> str:
    """What is said; nothing is stored."""
    answer = stack.request("POST", "/clusters", asked, operator)
    assert (answer.status, answer.json["type"], answer.json["reason"]) == (422, PROBE_FAILED, "EksRefused"), answer
    cluster = asked["name"].lower().replace(" ", "-")
    assert stack.registry_row(cluster) is None
    assert not [it for it in stack.secret_names() if f"/{cluster}/" in it]
    return answer.json["detail"]


def test_a_cluster_of_the_parameter_is_described_and_another_is_not(stack, operator):
    described = refused(stack, operator, body("Near", "e2e-near"))
    assert "no address or no CA" in described, described
    denied = refused(stack, operator, body("Hidden", "hidden"))
    assert "needs eks:DescribeCluster" in denied, denied
    missing = refused(stack, operator, body("Missing", "e2e-missing"))
    assert "no such cluster" in missing, missing


def test_a_role_of_the_parameter_is_taken_on_the_way(stack, operator):
    """It may describe what the function's own role may not, and the other way round."""
    assert "no address or no CA" in refused(stack, operator, body("Far", "far", roleArn=FAR))
    denied = refused(stack, operator, body("Not far", "e2e-near", roleArn=FAR))
    assert f"{FAR} needs eks:DescribeCluster" in denied, denied


def test_a_role_that_the_parameter_does_not_name_is_refused(stack, operator):
    other = FAR.replace("e2e-far", "e2e-other")
    answer = stack.request("POST", "/clusters", body("Other role", "far", roleArn=other), operator)
    assert (answer.status, [it["pointer"] for it in answer.json["errors"]]) == (422, ["/auth/eks/roleArn"]), answer


def test_a_role_asks_for_the_external_id(stack, operator, eks):
    """Of this stack, which nobody can choose: a role that trusts another one is not given to us."""
    iam = stack.client("iam")
    changed = json.loads(json.dumps(eks).replace(stack.outputs["EksExternalId"], "another-stack"))
    iam.update_assume_role_policy(RoleName="e2e-far", PolicyDocument=json.dumps(changed))
    try:
        assert "may not be taken" in refused(stack, operator, body("Untrusted", "far", roleArn=FAR))
    finally:
        iam.update_assume_role_policy(RoleName="e2e-far", PolicyDocument=json.dumps(eks))
    assert "no address or no CA" in refused(stack, operator, body("Trusted", "far", roleArn=FAR))


def test_without_a_probe_aws_is_asked_nevertheless(stack, operator):
    """The cluster isn't, but its address and CA come from nowhere else."""
    answer = stack.request("POST", "/clusters?probe=false", body("Unasked", "e2e-near"), operator)
    assert (answer.status, answer.json["reason"]) == (422, "EksRefused"), answer
    assert stack.registry_row("unasked") is None


@pytest.fixture
def kept(stack, registered):
    """Two clusters as a registration leaves them, whose EKS tells nothing (any more)."""
    for cluster, name in (("eks-near", "e2e-near"), ("eks-hidden", "hidden")):
        auth = {"eks": {"clusterName": name, "region": REGION}}
        table = {"TableName": stack.outputs["RegistryTableName"]}
        item = stack.client("dynamodb").get_item(**table, Key={"kind": {"S": "cluster"}, "id": {"S": "sim-eu"}})["Item"]
        item = {key: item[key] for key in ("kind", "apiUrl", "state", "nonce", "namespaces", "createdAt", "updatedAt")}
        stack.client("dynamodb").put_item(**table, Item={
            **item, "id": {"S": cluster}, "name": {"S": cluster},
            "eks": {"M": {key: {"S": value} for key, value in auth["eks"].items()}}})
        stack.client("secretsmanager").create_secret(
            Name=f"e2e/clusters/{cluster}/credentials",
            SecretString=json.dumps({"id": cluster, "namespaces": [], "auth": auth}))


def test_a_check_and_a_probe_ask_under_their_own_roles(stack, operator, kept):
    """A check goes on asking: EKS may answer later."""
    for cluster, why in (("eks-near", "no address or no CA"), ("eks-hidden", "needs eks:DescribeCluster")):
        shown = stack.request("GET", f"/clusters/{cluster}", credentials=operator)
        assert (shown.status, shown.json["token"]) == (200, None), shown
        answer, failed = stack.invoke("CheckFunctionName", {
            "deploymentId": cluster, "helmType": "flux",
            "targets": [{"cluster": cluster, "namespace": "e2e", "release": "nothing"}]})
        assert not failed, answer
        assert (answer["status"], answer["reason"]) == ("pending", "CredentialsUnavailable"), answer
        assert why in answer["message"]
        probed = stack.request("POST", f"/clusters/{cluster}/probe", credentials=operator)
        assert (probed.status, probed.json["reason"], why in probed.json["detail"]) == (422, "EksRefused", True), probed


def test_eks_and_a_token_exclude_each_other(stack, operator):
    both = {**body("Both", "e2e-near"), "apiUrl": "https://k8s.example.com",
            "serviceAccountToken": "a-token-beside-eks"}
    answer = stack.request("POST", "/clusters", both, operator)
    assert (answer.status, {it["pointer"] for it in answer.json["errors"]}) == (
        422, {"/apiUrl", "/serviceAccountToken"}), answer
    assert stack.outputs["EksExternalId"] not in answer.text and NAME not in answer.json["detail"]
