"""What the roles of the stack allow, and what they don't."""

import json

import pytest
from emulator import ACCOUNT, REGION

SECRETS = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:"


@pytest.fixture(scope="module")
def arns(stack) -> dict[str, str]:
    """The ARNs of everything that a role could reach."""
    tables = stack.client("dynamodb")
    bus = stack.client("events").describe_event_bus(Name=stack.outputs["EventBusName"])["Arn"]
    return {
        "check": stack.function("CheckFunctionName")["FunctionArn"],
        "register": stack.function("RegisterFunctionName")["FunctionArn"],
        "deployments": tables.describe_table(TableName=stack.outputs["DeploymentsTableName"])["Table"]["TableArn"],
        "registry": tables.describe_table(TableName=stack.outputs["RegistryTableName"])["Table"]["TableArn"],
        "bus": bus,
        "default bus": bus.rsplit("/", 1)[0] + "/default",
        "queue": stack.client("sqs").get_queue_attributes(
            QueueUrl=stack.outputs["UnclosedQueueUrl"], AttributeNames=["QueueArn"])["Attributes"]["QueueArn"],
        "machine": stack.outputs["StateMachineArn"],
        "secret": SECRETS + "e2e/clusters/sim-eu/credentials-AbCdEf",
        "another stack's secret": SECRETS + "e2e-2/clusters/sim-eu/credentials-AbCdEf",
        "another secret": SECRETS + "database-AbCdEf",
    }


@pytest.fixture(scope="module")
def roles(stack) -> dict[str, str]:
    return {
        "check": stack.function("CheckFunctionName")["Role"],
        "register": stack.function("RegisterFunctionName")["Role"],
        "machine": stack.client("stepfunctions").describe_state_machine(
            stateMachineArn=stack.outputs["StateMachineArn"])["roleArn"],
    }


# By role: each call that is allowed, beside those next to it that aren't.
ALLOWED, DENIED = "allowed", "implicitDeny"
DECISIONS = [
    ("check", "dynamodb:GetItem", "deployments", ALLOWED),
    ("check", "dynamodb:PutItem", "deployments", ALLOWED),
    ("check", "dynamodb:DeleteItem", "deployments", DENIED),
    ("check", "dynamodb:Scan", "deployments", DENIED),
    ("check", "dynamodb:GetItem", "registry", ALLOWED),
    ("check", "dynamodb:PutItem", "registry", DENIED),
    ("check", "secretsmanager:GetSecretValue", "secret", ALLOWED),
    ("check", "secretsmanager:PutSecretValue", "secret", DENIED),
    ("check", "secretsmanager:GetSecretValue", "another stack's secret", DENIED),
    ("check", "secretsmanager:GetSecretValue", "another secret", DENIED),
    ("check", "events:PutEvents", "bus", ALLOWED),
    ("check", "events:PutEvents", "default bus", DENIED),
    ("check", "sqs:SendMessage", "queue", ALLOWED),
    ("check", "sqs:ReceiveMessage", "queue", DENIED),
    ("check", "states:StartExecution", "machine", DENIED),
    ("register", "dynamodb:GetItem", "registry", ALLOWED),
    ("register", "dynamodb:PutItem", "registry", ALLOWED),
    ("register", "dynamodb:DeleteItem", "registry", ALLOWED),
    ("register", "dynamodb:Query", "registry", ALLOWED),
    ("register", "dynamodb:Scan", "registry", DENIED),
    ("register", "dynamodb:GetItem", "deployments", DENIED),
    ("register", "secretsmanager:CreateSecret", "secret", ALLOWED),
    ("register", "secretsmanager:GetSecretValue", "secret", ALLOWED),
    ("register", "secretsmanager:PutSecretValue", "secret", ALLOWED),
    ("register", "secretsmanager:DeleteSecret", "secret", ALLOWED),
    ("register", "secretsmanager:RestoreSecret", "secret", ALLOWED),
    ("register", "secretsmanager:PutResourcePolicy", "secret", DENIED),
    ("register", "secretsmanager:GetSecretValue", "another stack's secret", DENIED),
    ("register", "secretsmanager:DeleteSecret", "another secret", DENIED),
    ("register", "events:PutEvents", "bus", DENIED),
    ("register", "lambda:InvokeFunction", "check", DENIED),
    ("machine", "lambda:InvokeFunction", "check", ALLOWED),
    ("machine", "lambda:InvokeFunction", "register", DENIED),
    ("machine", "dynamodb:UpdateItem", "deployments", ALLOWED),
    ("machine", "dynamodb:UpdateItem", "registry", DENIED),
    ("machine", "dynamodb:DeleteItem", "deployments", DENIED),
    ("machine", "events:PutEvents", "bus", ALLOWED),
    ("machine", "events:PutEvents", "default bus", DENIED),
    ("machine", "secretsmanager:GetSecretValue", "secret", DENIED),
]


@pytest.mark.parametrize(("role", "action", "resource", "decision"), DECISIONS)
def test_iam_decides(stack, arns, roles, role, action, resource, decision):
    """For the state machine this is all there is: the emulator doesn't hold it to its role."""
    results = stack.client("iam").simulate_principal_policy(
        PolicySourceArn=roles[role], ActionNames=[action], ResourceArns=[arns[resource]])["EvaluationResults"]
    assert results[0]["EvalDecision"] == decision


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
        answer = stack.client("lambda").invoke(
            FunctionName=stack.outputs["CheckFunctionName"], Payload=json.dumps({
                "deploymentId": deployment_id, "helmType": "flux",
                "targets": [{"cluster": "sim-eu", "namespace": "e2e", "release": "nothing"}],
            }))
        return json.loads(answer["Payload"].read())

    assert check("rights-before")["status"] == "pending"
    with stack.variables("CheckFunctionName", DEPLOYMENTS_TABLE=foreign["DeploymentsTableName"]):
        refused = check("rights-between")
    assert refused["errorType"] == "Internal", refused
    assert stack.item("rights-between") is None
    assert check("rights-after")["status"] == "pending"


def test_a_right_that_is_taken_away_is_missing(stack, operator, roles):
    """So it is the role that the function calls with, and not somebody's who may more."""
    iam, role = stack.client("iam"), roles["register"].rsplit("/", 1)[1]
    iam.put_role_policy(RoleName=role, PolicyName="not-any-more", PolicyDocument=json.dumps({
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Deny", "Action": "dynamodb:Query", "Resource": "*"}],
    }))
    try:
        assert stack.request("GET", "/clusters", credentials=operator).status == 500
    finally:
        iam.delete_role_policy(RoleName=role, PolicyName="not-any-more")
    assert stack.request("GET", "/clusters", credentials=operator).status == 200
