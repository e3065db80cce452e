"""The deployed stack, and those who use it."""

import contextlib
import io
import json
import subprocess
import time
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from boto3.dynamodb.types import TypeDeserializer
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from document import Document
from emulator import ACCOUNT, REGION, ROOT_KEY, ROOT_SECRET, Emulator

NAME = "e2e"

# Beside the defaults. The simulated clusters are on loopback, which is refused where nobody allows it by name.
PARAMETERS = {
    "AllowedApiServerCidrs": "127.0.0.1/32",
    "EksClusterArns": f"arn:aws:eks:{REGION}:{ACCOUNT}:cluster/e2e-*",
    "EksRoleArns": f"arn:aws:iam::{ACCOUNT}:role/e2e-far",
}


@dataclass(frozen=True)
class Answer:
    """What came over HTTP."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self):
        return json.loads(self.text)


class Stack:
    """`sam deploy` to the emulator, and what a test wants to know of it."""

    def __init__(self, emulator: Emulator, template: str, log: Path):
        self._emulator, self._template, self._log = emulator, template, log
        self.deploy()
        stacks = self.client("cloudformation").describe_stacks(StackName=NAME)["Stacks"]
        self.outputs = {it["OutputKey"]: it["OutputValue"] for it in stacks[0]["Outputs"]}
        self.api_id = urlsplit(self.outputs["ApiUrl"]).hostname.split(".")[0]
        # On AWS it is the URL of the output; the emulator serves the same behind a path.
        self.api_url = f"{emulator.url}/_aws/execute-api/{self.api_id}/v1"
        self._document = Document()
        # Every token that was given to the API, and every answer: no test has to remember what must stay secret.
        self.tokens: set[str] = set()
        self.answers: list[str] = []

    def deploy(self, **changed: str):
        """`sam deploy`, the first time and with other parameters."""
        parameters = [f"{name}={value}" for name, value in {**PARAMETERS, **changed}.items()]
        done = subprocess.run(
            ["sam", "deploy", "--template-file", self._template, "--stack-name", NAME, "--region", REGION,
             "--resolve-s3", "--capabilities", "CAPABILITY_IAM", "--no-confirm-changeset",
             "--parameter-overrides", *parameters],
            env=self._emulator.environment, cwd=self._log.parent, stdin=subprocess.DEVNULL, capture_output=True,
            text=True,
        )
        with self._log.open("a") as log:
            log.write(done.stdout + done.stderr)
        if done.returncode:
            raise RuntimeError(f"sam deploy failed:\n{done.stdout}{done.stderr}")

    def resources(self, kind: str) -> dict[str, str]:
        """The stack's resources of a type: physical ids by logical ones."""
        pages = self.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=NAME)
        return {it["LogicalResourceId"]: it["PhysicalResourceId"]
                for page in pages for it in page["StackResourceSummaries"] if it["ResourceType"] == kind}

    def client(self, service: str, credentials: Credentials | None = None):
        """A client of an AWS service, as the account's root unless said otherwise."""
        return boto3.client(
            service, endpoint_url=self._emulator.url, region_name=REGION,
            aws_access_key_id=credentials.access_key if credentials else ROOT_KEY,
            aws_secret_access_key=credentials.secret_key if credentials else ROOT_SECRET,
            config=Config(retries={"mode": "standard"}),
        )

    def user(self, name: str, *statements: dict) -> Credentials:
        """A user who may do just this."""
        iam = self.client("iam")
        iam.create_user(UserName=name)
        if statements:
            iam.put_user_policy(UserName=name, PolicyName="may", PolicyDocument=json.dumps(
                {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **it} for it in statements]}))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return Credentials(key["AccessKeyId"], key["SecretAccessKey"])

    def user_with(self, name: str, policy_arn: str) -> Credentials:
        """A user with one managed policy."""
        credentials = self.user(name)
        self.client("iam").attach_user_policy(UserName=name, PolicyArn=policy_arn)
        return credentials

    def operator(self) -> Credentials:
        """May call every route, and can do nothing else."""
        return self.user("operator", {
            "Action": "execute-api:Invoke",
            "Resource": f"arn:aws:execute-api:{REGION}:{ACCOUNT}:{self.api_id}/v1/*",
        })

    def deployer(self) -> Credentials:
        """Starts deployments, and can do nothing else."""
        return self.user("deployer", {
            "Action": "states:StartExecution", "Resource": self.outputs["StateMachineArn"],
        })

    def request(self, method: str, path: str, body=None, credentials: Credentials | None = None,
                content_type="application/json") -> Answer:
        """Calls the API, signed where there are credentials. Each answer is held against the API's document."""
        if isinstance(body, dict) and isinstance(body.get("serviceAccountToken"), str):
            self.tokens.add(body["serviceAccountToken"])
        answer = self._call(method, path, body, credentials, content_type)
        self.answers.append(f"{answer.headers} {answer.text}")
        self._document.check(method, path, answer.status, answer.headers, answer.text)
        return answer

    def _call(self, method, path, body, credentials, content_type) -> Answer:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = AWSRequest(method, self.api_url + path, data=data, headers={"content-type": content_type})
        if credentials:
            SigV4Auth(credentials, "execute-api", REGION).add_auth(request)
        request = urllib.request.Request(
            self.api_url + path, method=method, data=data, headers=dict(request.headers.items()))
        try:
            with urllib.request.urlopen(request, timeout=60) as it:
                return Answer(it.status, {k.lower(): v for k, v in it.headers.items()}, it.read().decode())
        except urllib.error.HTTPError as it:
            return Answer(it.code, {k.lower(): v for k, v in it.headers.items()}, it.read().decode())

    def item(self, deployment_id: str) -> dict | None:
        """What stands in the deployments table."""
        item = self.client("dynamodb").get_item(
            TableName=self.outputs["DeploymentsTableName"], ConsistentRead=True,
            Key={"deploymentId": {"S": deployment_id}},
        ).get("Item")
        return plain(item) if item else None

    def registry_row(self, cluster: str, kind: str = "cluster") -> dict | None:
        """What stands in the registry of a cluster, or of another kind."""
        item = self.client("dynamodb").get_item(
            TableName=self.outputs["RegistryTableName"], ConsistentRead=True,
            Key={"kind": {"S": kind}, "id": {"S": cluster}},
        ).get("Item")
        return plain(item) if item else None

    def secret(self, cluster: str) -> str:
        """The secret of a cluster, as text."""
        return self.client("secretsmanager").get_secret_value(
            SecretId=f"{NAME}/clusters/{cluster}/credentials")["SecretString"]

    def secret_names(self) -> list[str]:
        """Of all secrets there are."""
        pages = self.client("secretsmanager").get_paginator("list_secrets").paginate()
        return [it["Name"] for page in pages for it in page["SecretList"]]

    def executions(self) -> list[str]:
        """The names of all executions there have been."""
        pages = self.client("stepfunctions").get_paginator("list_executions").paginate(
            stateMachineArn=self.outputs["StateMachineArn"])
        return [it["name"] for page in pages for it in page["executions"]]

    def execution(self, name: str) -> "Execution":
        """An execution by its name."""
        return Execution(self, self.outputs["StateMachineArn"].replace(":stateMachine:", ":execution:") + f":{name}")

    def invoke(self, output: str, event) -> tuple[object, bool]:
        """Calls a function itself, with what it gets; its answer, and whether that is an error."""
        payload = event if isinstance(event, bytes) else json.dumps(event)
        answer = self.client("lambda").invoke(FunctionName=self.outputs[output], Payload=payload)
        return json.loads(answer["Payload"].read() or b"null"), "FunctionError" in answer

    def logged(self, output: str) -> list[str]:
        """Every line in a function's log."""
        group = self.function(output)["LoggingConfig"]["LogGroup"]
        pages = self.client("logs").get_paginator("filter_log_events").paginate(logGroupName=group)
        return [it["message"] for page in pages for it in page["events"]]

    def function(self, output: str) -> dict:
        """The configuration of a function, by the output that names it."""
        return self.client("lambda").get_function_configuration(FunctionName=self.outputs[output])

    def add_function(self, name: str, bootstrap: bytes, role: str, timeout: int, variables: dict[str, str]) -> str:
        """Another function beside the stack's; its ARN."""
        packed, entry = io.BytesIO(), zipfile.ZipInfo("bootstrap")
        entry.external_attr = 0o755 << 16
        with zipfile.ZipFile(packed, "w") as it:
            it.writestr(entry, bootstrap)
        functions = self.client("lambda")
        arn = functions.create_function(
            FunctionName=name, Runtime="provided.al2023", Handler="bootstrap", Role=role, Timeout=timeout,
            Code={"ZipFile": packed.getvalue()}, Environment={"Variables": variables})["FunctionArn"]
        functions.get_waiter("function_active_v2").wait(FunctionName=name)
        return arn

    def add_machine(self, name: str, function: str) -> str:
        """A state machine of the same text beside the stack's, with another check function; its ARN."""
        states, check = self.client("stepfunctions"), self.function("CheckFunctionName")["FunctionArn"]
        own = states.describe_state_machine(stateMachineArn=self.outputs["StateMachineArn"])
        assert check in own["definition"]
        return states.create_state_machine(
            name=name, roleArn=own["roleArn"], definition=own["definition"].replace(check, function),
        )["stateMachineArn"]

    @contextlib.contextmanager
    def variables(self, output: str, **changed: str):
        """A function with other environment variables, for a while."""
        functions, before = self.client("lambda"), self.function(output)["Environment"]["Variables"]

        def put(variables):
            functions.update_function_configuration(
                FunctionName=self.outputs[output], Environment={"Variables": variables})
            functions.get_waiter("function_updated_v2").wait(FunctionName=self.outputs[output])

        put({**before, **changed})
        try:
            yield
        finally:
            put(before)


def plain(item: dict) -> dict:
    """An item without DynamoDB's types."""
    return {key: TypeDeserializer().deserialize(value) for key, value in item.items()}


class Execution:
    """One run of the state machine."""

    def __init__(self, stack: Stack, arn: str):
        self._states = stack.client("stepfunctions")
        self.arn = arn

    def wait(self, timeout: float = 180) -> dict:
        """What DescribeExecution says once it has ended. The limit is for a machine that hangs, not a measurement."""
        deadline = time.monotonic() + timeout
        while True:
            seen = self._states.describe_execution(executionArn=self.arn)
            if seen["status"] != "RUNNING":
                return seen
            assert time.monotonic() < deadline, f"{self.arn} still runs after {timeout} s"
            time.sleep(0.5)

    def history(self) -> list[dict]:
        """Its events, oldest first."""
        pages = self._states.get_paginator("get_execution_history").paginate(executionArn=self.arn)
        return [event for page in pages for event in page["events"]]

    def entered(self) -> list[str]:
        """The names of its states in the order in which it came to them."""
        return [it["stateEnteredEventDetails"]["name"] for it in self.history() if it["type"].endswith("StateEntered")]

    def failures(self) -> list[str]:
        """The names of the errors of its tasks, also of those that were tried again."""
        return [it["taskFailedEventDetails"]["error"] for it in self.history() if it["type"] == "TaskFailed"]

    def stop(self):
        self._states.stop_execution(executionArn=self.arn, error="Stopped", cause="stopped by hand")


class Events:
    """A consumer of the stack's bus: a rule, and the queue behind it."""

    def __init__(self, stack: Stack):
        self._queues = stack.client("sqs")
        self.seen: list[dict] = []
        self._queue = self._queues.create_queue(QueueName="finished")["QueueUrl"]
        arn = self._queues.get_queue_attributes(
            QueueUrl=self._queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        self._queues.set_queue_attributes(QueueUrl=self._queue, Attributes={"Policy": json.dumps({
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"},
                           "Action": "sqs:SendMessage", "Resource": arn}],
        })})
        bus, events = stack.outputs["EventBusName"], stack.client("events")
        events.put_rule(Name="finished", EventBusName=bus, EventPattern=json.dumps(
            {"source": ["dag-monitor"], "detail-type": ["Deployment Finished", "Cluster Needs Attention"]}))
        events.put_targets(Rule="finished", EventBusName=bus, Targets=[{"Id": "queue", "Arn": arn}])

    def of(self, deployment_id: str, timeout: float = 30) -> list[dict]:
        """The details of the events about a deployment, at least one. They may come more than once."""
        return self._about("Deployment Finished", "deploymentId", deployment_id, timeout)

    def about_cluster(self, cluster: str, timeout: float = 30) -> list[dict]:
        """The details of the events that a cluster needs attention, at least one."""
        return self._about("Cluster Needs Attention", "cluster", cluster, timeout)

    def _about(self, kind: str, field: str, value: str, timeout: float) -> list[dict]:
        deadline = time.monotonic() + timeout
        while True:
            self._receive()
            found = [it["detail"] for it in self.seen if it["detail-type"] == kind and it["detail"][field] == value]
            if found:
                return found
            assert time.monotonic() < deadline, f"no {kind} about {value}"

    def _receive(self):
        while True:
            messages = self._queues.receive_message(
                QueueUrl=self._queue, MaxNumberOfMessages=10, WaitTimeSeconds=1).get("Messages", [])
            for it in messages:
                self.seen.append(json.loads(it["Body"]))
                self._queues.delete_message(QueueUrl=self._queue, ReceiptHandle=it["ReceiptHandle"])
            if not messages:
                return
