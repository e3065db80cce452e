"""What the roles of the stack allow, and what they don't."""

import contextlib
import json

import pytest
from conftest import cluster_body
from emulator import ACCOUNT, REGION

SECRETS = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:"


@pytest.fixture(scope="module")
def arns(stack) -> dict[str, str]:
    """The ARNs of everything that a role could reach."""
    def queue(output):
        return stack.client("sqs").get_queue_attributes(
            QueueUrl=stack.outputs[output], AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]

    def log(output):
        group = stack.function(output)["LoggingConfig"]["LogGroup"]
        return f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{group}:*"

    tables, machine = stack.client("dynamodb"), stack.outputs["StateMachineArn"]
    bus = stack.client("events").describe_event_bus(Name=stack.outputs["EventBusName"])["Arn"]
    return {
        "check": stack.function("CheckFunctionName")["FunctionArn"],
        "register": stack.function("RegisterFunctionName")["FunctionArn"],
        "deployments": tables.describe_table(TableName=stack.outputs["DeploymentsTableName"])["Table"]["TableArn"],
        "registry": tables.describe_table(TableName=stack.outputs["RegistryTableName"])["Table"]["TableArn"],
        "bus": bus,
        "default bus": bus.rsplit("/", 1)[0] + "/default",
        "unclosed": queue("UnclosedQueueUrl"),
        "unprobed": queue("UnprobedQueueUrl"),
        "machine": machine,
        "another machine": machine + "-2",
        "execution": machine.replace(":stateMachine:", ":execution:") + ":checkout-1",
        "history": tables.describe_table(TableName=stack.outputs["DeploymentsTableName"])["Table"]["TableArn"]
        + "/index/byEnvironment",
        "check's log": log("CheckFunctionName"),
        "register's log": log("RegisterFunctionName"),
        "eks": f"arn:aws:eks:{REGION}:{ACCOUNT}:cluster/e2e-near",
        "another eks": f"arn:aws:eks:{REGION}:{ACCOUNT}:cluster/hidden",
        "far role": f"arn:aws:iam::{ACCOUNT}:role/e2e-far",
        "another role": f"arn:aws:iam::{ACCOUNT}:role/e2e-far-2",
        "secret": SECRETS + "e2e/clusters/sim-eu/credentials-AbCdEf",
        "another stack's secret": SECRETS + "e2e-2/clusters/sim-eu/credentials-AbCdEf",
        "another secret": SECRETS + "database-AbCdEf",
    }


# The stack's roles, by their logical ids.
ROLES = {"check": "CheckRole", "register": "RegisterRole", "machine": "DeploymentMonitorRole"}


@pytest.fixture(scope="module")
def roles(stack) -> dict[str, str]:
    return {
        "check": stack.function("CheckFunctionName")["Role"],
        "register": stack.function("RegisterFunctionName")["Role"],
        "machine": stack.client("stepfunctions").describe_state_machine(
            stateMachineArn=stack.outputs["StateMachineArn"])["roleArn"],
    }


def statements(stack, role: str) -> list[dict]:
    """Everything that IAM holds about a role, as it was deployed: its own policies and those that are attached."""
    iam, name = stack.client("iam"), stack.resources("AWS::IAM::Role")[ROLES[role]]
    documents = [iam.get_role_policy(RoleName=name, PolicyName=it)["PolicyDocument"]
                 for it in iam.list_role_policies(RoleName=name)["PolicyNames"]]
    for it in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]:
        version = iam.get_policy(PolicyArn=it["PolicyArn"])["Policy"]["DefaultVersionId"]
        version = iam.get_policy_version(PolicyArn=it["PolicyArn"], VersionId=version)
        documents.append(version["PolicyVersion"]["Document"])
    documents = [json.loads(it) if isinstance(it, str) else it for it in documents]
    return [statement for it in documents for statement in it["Statement"]]


def action_patterns(statement: dict) -> set[str]:
    actions = statement["Action"]
    return {actions} if isinstance(actions, str) else set(actions)


# By role: each call that is allowed, and beside each of them one next to it that isn't: the same call of another
# resource, or another call of the same.
ALLOWED, DENIED = "allowed", "implicitDeny"
CALLS = [
    # role, action, allowed on; and what is denied: an action and on what.
    ("check", "dynamodb:GetItem", "deployments", "dynamodb:DeleteItem", "deployments"),
    ("check", "dynamodb:PutItem", "deployments", "dynamodb:PutItem", "registry"),
    ("check", "dynamodb:GetItem", "registry", "dynamodb:Scan", "registry"),
    ("check", "secretsmanager:GetSecretValue", "secret", "secretsmanager:GetSecretValue", "another stack's secret"),
    ("check", "events:PutEvents", "bus", "events:PutEvents", "default bus"),
    ("check", "sqs:SendMessage", "unclosed", "sqs:SendMessage", "unprobed"),
    ("check", "logs:CreateLogStream", "check's log", "logs:CreateLogStream", "register's log"),
    ("check", "logs:PutLogEvents", "check's log", "logs:DeleteLogStream", "check's log"),
    ("check", "eks:DescribeCluster", "eks", "eks:DescribeCluster", "another eks"),
    ("check", "sts:AssumeRole", "far role", "sts:AssumeRole", "another role"),
    ("register", "dynamodb:GetItem", "registry", "dynamodb:Scan", "registry"),
    ("register", "dynamodb:PutItem", "registry", "dynamodb:PutItem", "deployments"),
    ("register", "dynamodb:DeleteItem", "registry", "dynamodb:DeleteItem", "deployments"),
    ("register", "dynamodb:Query", "registry", "dynamodb:DeleteTable", "registry"),
    ("register", "dynamodb:ConditionCheckItem", "registry", "dynamodb:ConditionCheckItem", "deployments"),
    ("register", "dynamodb:GetItem", "deployments", "dynamodb:UpdateItem", "deployments"),
    ("register", "dynamodb:Query", "history", "dynamodb:Query", "deployments"),
    ("register", "secretsmanager:CreateSecret", "secret", "secretsmanager:CreateSecret", "another secret"),
    ("register", "secretsmanager:GetSecretValue", "secret", "secretsmanager:GetSecretValue", "another stack's secret"),
    ("register", "secretsmanager:PutSecretValue", "secret", "secretsmanager:UpdateSecret", "secret"),
    ("register", "secretsmanager:DeleteSecret", "secret", "secretsmanager:DeleteSecret", "another secret"),
    ("register", "secretsmanager:RestoreSecret", "secret", "secretsmanager:PutResourcePolicy", "secret"),
    ("register", "states:StartExecution", "machine", "states:StartExecution", "another machine"),
    ("register", "states:DescribeExecution", "execution", "states:StopExecution", "execution"),
    ("register", "events:PutEvents", "bus", "events:PutEvents", "default bus"),
    ("register", "sqs:SendMessage", "unprobed", "sqs:SendMessage", "unclosed"),
    ("register", "logs:CreateLogStream", "register's log", "logs:CreateLogStream", "check's log"),
    ("register", "logs:PutLogEvents", "register's log", "logs:GetLogEvents", "register's log"),
    ("register", "eks:DescribeCluster", "eks", "eks:CreateAccessEntry", "eks"),
    ("register", "sts:AssumeRole", "far role", "sts:AssumeRole", "another role"),
    ("machine", "lambda:InvokeFunction", "check", "lambda:InvokeFunction", "register"),
    ("machine", "dynamodb:UpdateItem", "deployments", "dynamodb:UpdateItem", "registry"),
    ("machine", "events:PutEvents", "bus", "events:PutEvents", "default bus"),
]

# And what none of those is beside.
NEVER = [
    ("check", "states:StartExecution", "machine"),
    ("check", "secretsmanager:PutSecretValue", "secret"),
    ("check", "lambda:InvokeFunction", "register"),
    ("register", "lambda:InvokeFunction", "check"),
    ("register", "lambda:UpdateFunctionConfiguration", "check"),
    ("register", "iam:PassRole", "far role"),
    ("machine", "secretsmanager:GetSecretValue", "secret"),
    ("machine", "dynamodb:DeleteItem", "deployments"),
]
DECISIONS = sorted({
    *((role, action, resource, ALLOWED) for role, action, resource, _, _ in CALLS),
    *((role, action, resource, DENIED) for role, _, _, action, resource in CALLS),
    *((role, action, resource, DENIED) for role, action, resource in NEVER),
})


@pytest.mark.parametrize(("role", "action", "resource", "decision"), DECISIONS)
def test_iam_decides(stack, arns, roles, role, action, resource, decision):
    """For the state machine this is all there is: the emulator doesn't hold it to its role."""
    results = stack.client("iam").simulate_principal_policy(
        PolicySourceArn=roles[role], ActionNames=[action], ResourceArns=[arns[resource]])["EvaluationResults"]
    assert results[0]["EvalDecision"] == decision


@pytest.mark.parametrize("role", ROLES)
def test_the_table_has_every_action_of_a_role(stack, role):
    """An action that a policy gains comes into the table, with one that is denied beside it."""
    granted = statements(stack, role)
    assert granted and all(it["Effect"] == "Allow" and "NotAction" not in it for it in granted)
    actions = set().union(*map(action_patterns, granted))
    assert not [it for it in actions if "*" in it]
    assert actions == {action for it, action, _, _, _ in CALLS if it == role}


@pytest.mark.parametrize("role", ROLES)
def test_no_resource_is_everything(stack, role):
    for it in statements(stack, role):
        resources = [it["Resource"]] if isinstance(it["Resource"], str) else it["Resource"]
        assert all(it.startswith("arn:aws:") and it.count(":") >= 5 for it in resources), it


def test_no_other_role_is_in_the_stack(stack, roles):
    assert set(stack.resources("AWS::IAM::Role")) == set(ROLES.values())
    assert {arn.rsplit("/", 1)[1] for arn in roles.values()} == set(stack.resources("AWS::IAM::Role").values())


@pytest.fixture(scope="module")
def foreign(stack) -> dict[str, str]:
    """Two tables just like the stack's, that aren't the stack's."""
    tables, made = stack.client("dynamodb"), {}
    for output in ("DeploymentsTableName", "RegistryTableName"):
        like = tables.describe_table(TableName=stack.outputs[output])["Table"]
        keys = [it["AttributeName"] for it in like["KeySchema"]]
        tables.create_table(
            TableName=f"foreign-{output}", BillingMode="PAY_PER_REQUEST", KeySchema=like["KeySchema"],
            AttributeDefinitions=[it for it in like["AttributeDefinitions"] if it["AttributeName"] in keys])
        made[output] = f"foreign-{output}"
    return made


def test_register_reaches_no_other_table(stack, operator, foreign):
    """The same call of the same function: allowed on its own table, denied on one beside it."""
    assert stack.request("GET", "/clusters", credentials=operator).status == 200
    with stack.variables("RegisterFunctionName", REGISTRY_TABLE=foreign["RegistryTableName"]):
        refused = stack.request("GET", "/clusters", credentials=operator)
    assert refused.status == 500
    # What is wrong between us and AWS is for the log.
    assert not any(it in refused.text.lower() for it in ("dynamodb", "arn:", "denied", "foreign"))
    assert stack.request("GET", "/clusters", credentials=operator).status == 200


def test_check_reaches_no_other_table(stack, registered, foreign):
    def check(deployment_id):
        return stack.invoke("CheckFunctionName", {
            "deploymentId": deployment_id, "helmType": "flux",
            "targets": [{"cluster": "sim-eu", "namespace": "e2e", "release": "nothing"}],
        })[0]

    assert check("rights-before")["status"] == "pending"
    with stack.variables("CheckFunctionName", DEPLOYMENTS_TABLE=foreign["DeploymentsTableName"]):
        refused = check("rights-between")
    assert refused["errorType"] == "Internal", refused
    assert stack.item("rights-between") is None
    assert check("rights-after")["status"] == "pending"


# What each right of a function is for: what is asked of it, and what it answers without the right. A right whose loss
# changes nothing would be one too many.
def taken(stack, roles, role: str, *actions: str):
    """A role without some rights, for a while: so it is the role that the function calls with, and not somebody's who
    may more."""
    iam, name = stack.client("iam"), roles[role].rsplit("/", 1)[1]

    @contextlib.contextmanager
    def without():
        iam.put_role_policy(RoleName=name, PolicyName="not-any-more", PolicyDocument=json.dumps({
            "Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": actions, "Resource": "*"}]}))
        try:
            yield
        finally:
            iam.delete_role_policy(RoleName=name, PolicyName="not-any-more")

    return without()


@pytest.fixture(scope="module")
def world(stack, operator, registered, clusters):
    """Something of each kind: a cluster, another to delete, an environment, a deployment."""
    for name in ("Right one", "Right two"):
        assert stack.request("POST", "/clusters", cluster_body(name, clusters["us"]), operator).status == 201
    body = {"helmType": "flux", "targets": [{"cluster": "right-one", "namespace": "e2e", "release": "nothing"}]}
    assert stack.request("PUT", "/apps/rights/environments/a", body, operator).status == 201
    assert stack.request("POST", "/deployments", {"deploymentId": "rights-item", "timeoutSecs": 10, **body},
                         operator).status == 202
    stack.execution("rights-item").wait()
    assert stack.request("GET", "/deployments/rights-item", credentials=operator).status == 200
    return body


@pytest.mark.parametrize(("action", "method", "path", "make"), [
    ("dynamodb:Query", "GET", "/clusters", None),
    ("dynamodb:Query", "GET", "/deployments?app=rights&environment=a", None),
    ("dynamodb:GetItem", "GET", "/clusters/right-one", None),
    ("dynamodb:GetItem", "GET", "/deployments/rights-item", None),
    ("dynamodb:PutItem", "PUT", "/apps/rights/environments/b", "environment"),
    ("dynamodb:ConditionCheckItem", "PUT", "/apps/rights/environments/b", "environment"),
    ("dynamodb:DeleteItem", "DELETE", "/apps/rights/environments/a", None),
    ("secretsmanager:GetSecretValue", "POST", "/clusters/right-one/probe", None),
    ("secretsmanager:CreateSecret", "POST", "/clusters", "cluster"),
    ("secretsmanager:PutSecretValue", "PUT", "/clusters/right-one", "token"),
    ("secretsmanager:DeleteSecret", "DELETE", "/clusters/right-two", None),
    ("states:StartExecution", "POST", "/deployments", "deployment"),
    ("states:DescribeExecution", "GET", "/deployments/never-started", None),
])
def test_a_right_of_register_that_is_taken_away_is_missing(
        stack, operator, roles, clusters, world, action, method, path, make):
    us = clusters["us"]
    body = {
        None: None,
        "environment": world,
        "cluster": cluster_body("Right three", us),
        "token": {"serviceAccountToken": us.token},
        "deployment": {"deploymentId": "rights-start", **world},
    }[make]
    with taken(stack, roles, "register", action):
        refused = stack.request(method, path, body, operator)
    assert refused.status == 500, refused
    # What is wrong between us and AWS is for the log.
    assert not any(it in refused.text.lower() for it in ("dynamodb", "secretsmanager", "arn:", "denied", "role"))


@pytest.mark.parametrize(("action", "what"), [
    ("dynamodb:GetItem", "error"),
    ("dynamodb:PutItem", "error"),
    ("secretsmanager:GetSecretValue", "pending"),
])
def test_a_right_of_check_that_is_taken_away_is_missing(stack, roles, world, action, what):
    with stack.variables("CheckFunctionName", RUST_LOG="info"), taken(stack, roles, "check", action):
        # A new process, which holds no credentials yet.
        answer, failed = stack.invoke("CheckFunctionName", {
            "deploymentId": f"rights-{action.rsplit(':', 1)[1]}", **world})
    if what == "error":
        assert failed and answer["errorType"] in ("Internal", "Transient"), answer
    else:
        assert (answer["status"], answer["reason"]) == ("pending", "CredentialsUnavailable"), answer
