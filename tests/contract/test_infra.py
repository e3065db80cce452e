"""Holds the template, the state machine, the API's document and the functions' sources in step.

Each of these is right for itself where cfn-lint and the emulator look at it; what they promise each other is checked
here: names of errors and of variables, times, rights.
"""

import json
import re
from pathlib import Path

import pytest
from samcli.yamlhelper import yaml_parse

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
TEXT = (INFRA / "template.yaml").read_text()
TEMPLATE = yaml_parse(TEXT)
RESOURCES = TEMPLATE["Resources"]
PARAMETERS = TEMPLATE["Parameters"]
MACHINE = json.loads((INFRA / "deployment-monitor.asl.json").read_text())
STATES = MACHINE["States"]
API = yaml_parse((INFRA / "openapi.yaml").read_text())

LONGEST_DEADLINE = PARAMETERS["DeployMonitorTimeoutSecs"]["MaxValue"]
# What Step Functions allows a standard execution.
HISTORY_LIMIT = 25_000


def of_type(kind: str) -> dict[str, dict]:
    return {name: it for name, it in RESOURCES.items() if it["Type"] == kind}


def retrier(state: str, error: str) -> dict:
    """The one that decides about an error: the first that matches."""
    for it in STATES[state]["Retry"]:
        names = it["ErrorEquals"]
        if error in names or "States.ALL" in names or "States.TaskFailed" in names and error != "States.Timeout":
            return it
    return {"MaxAttempts": 0}


def catcher(state: str, error: str) -> str | None:
    for it in STATES[state].get("Catch", []):
        if error in it["ErrorEquals"] or "States.ALL" in it["ErrorEquals"]:
            return it["Next"]
    return None


def delays(it: dict, attempts: int):
    """The longest waits before each retry; jitter cuts each at random, to a half on average."""
    for attempt in range(attempts):
        yield min(it["IntervalSeconds"] * it["BackoffRate"] ** min(attempt, 50), it["MaxDelaySeconds"])


class TestTimes:
    def test_the_longest_deadline_is_the_contract(self):
        assert LONGEST_DEADLINE == 7_200

    def test_the_machine_outlasts_it(self):
        # The last wait, the last look with its retries, the mark, the event.
        assert MACHINE["TimeoutSeconds"] >= LONGEST_DEADLINE + 300

    def test_the_task_outlasts_the_function(self):
        """Else the function's own timeout, which says more, is never seen."""
        assert STATES["Check"]["TimeoutSeconds"] > RESOURCES["CheckFunction"]["Properties"]["Timeout"]

    def test_hiccups_are_retried_until_the_longest_deadline(self):
        it = retrier("Check", "Transient")
        assert it["JitterStrategy"] == "FULL"
        assert (it["IntervalSeconds"], it["BackoffRate"], it["MaxDelaySeconds"]) == (2, 1.5, 10)
        # A single wait can be anything from nothing; the sum of so many comes out near its mean.
        assert sum(delays(it, it["MaxAttempts"])) / 2 > LONGEST_DEADLINE * 1.05

    def test_the_history_has_room(self):
        """Entered, scheduled, started, succeeded, exited; entered, exited of the choice and of the wait."""
        a_round, a_retry, before_and_after = 9, 3, 60
        rounds = LONGEST_DEADLINE / STATES["Wait"]["Seconds"]
        assert rounds * a_round + before_and_after < HISTORY_LIMIT
        # One hiccup in every round takes longer than none, but leaves more behind.
        assert rounds * (a_round + a_retry) + before_and_after < HISTORY_LIMIT
        assert retrier("Check", "Transient")["MaxAttempts"] * a_retry + before_and_after < HISTORY_LIMIT

    def test_the_machine_asks_every_five_seconds(self):
        assert (STATES["Wait"]["Seconds"], STATES["Wait"]["Next"]) == (5, "Check")

    def test_api_gateway_outlasts_the_register_function(self):
        assert RESOURCES["RegisterFunction"]["Properties"]["Timeout"] <= 29


class TestErrors:
    def test_a_refusal_is_final(self):
        assert retrier("Check", "InvalidRequest")["MaxAttempts"] == 0
        assert catcher("Check", "InvalidRequest")

    @pytest.mark.parametrize("error", [
        "Transient", "Lambda.TooManyRequestsException", "Lambda.ServiceException", "Lambda.AWSLambdaException",
        "Lambda.SdkClientException",
    ])
    def test_hiccups_are_retried(self, error):
        assert retrier("Check", error)["MaxAttempts"] > 100

    @pytest.mark.parametrize("error", ["States.Timeout", "Internal", "Runtime.ExitError", "Sandbox.Timedout"])
    def test_what_hangs_or_breaks_is_tried_a_few_times(self, error):
        assert retrier("Check", error)["MaxAttempts"] == 5

    @pytest.mark.parametrize("error", ["InvalidRequest", "Transient", "States.Timeout", "Internal"])
    def test_every_error_of_a_check_ends_in_the_mark(self, error):
        assert catcher("Check", error) == "Explain"
        assert STATES["Explain"]["Next"] == "Mark"

    @pytest.mark.parametrize("state", ["Mark", "Publish", "PublishMark"])
    def test_what_comes_after_the_verdict_can_fail_without_changing_the_end(self, state):
        assert catcher(state, "States.Timeout") == {"Publish": "End"}.get(state, "GiveUp")
        # What the state got goes on as it came.
        assert all(it["Output"] == "{% $states.input %}" for it in STATES[state]["Catch"])

    @pytest.mark.parametrize("name", ["InvalidRequest", "Transient"])
    def test_the_names_are_those_of_the_check_function(self, name):
        assert f'"{name}"' in rust("functions/check/src")

    def test_the_reasons_are_in_the_closed_list(self):
        reasons = rust("shared/verdict/src/reason.rs")
        written = {it["Output"]["reason"] for it in STATES["Check"]["Catch"]} | {STATES["Puzzled"]["Output"]["reason"]}
        written |= {STATES["Mark"]["Arguments"]["ExpressionAttributeValues"][":starting"]["S"], "Timeout"}
        for it in written:
            assert re.search(rf"^\s+{it},$", reasons, re.M), f"{it} is no reason"

    def test_the_ends_have_stable_names(self):
        ends = {name: it["Error"] for name, it in STATES.items() if it["Type"] == "Fail"}
        assert ends == {
            "Failed": "DeploymentFailed",
            "TimedOut": "DeploymentTimedOut",
            "GiveUp": "{% $states.input.reason %}",
        }


class TestStateMachine:
    def test_every_state_says_what_it_costs(self):
        for name, it in STATES.items():
            assert it.get("Comment"), name
            if it["Type"] in ("Task", "Wait", "Choice", "Pass"):
                assert re.search(r"\d+ s|no time", it["Comment"]), f"{name} doesn't say how long it takes"

    def test_it_comes_from_and_to_states_that_exist(self):
        targets = set()
        for it in STATES.values():
            targets |= {it.get("Next"), it.get("Default")}
            targets |= {sub["Next"] for sub in it.get("Choices", []) + it.get("Catch", [])}
        assert {MACHINE["StartAt"], *targets} - {None} == set(STATES)

    def test_the_input_is_read_from_the_context(self):
        """So no state can change it on the way."""
        assert MACHINE["QueryLanguage"] == "JSONata"
        assert "$states.context.Execution.Input" in STATES["Check"]["Arguments"]["Payload"]
        assert not any("Assign" in it for it in STATES.values())

    def test_it_is_a_standard_one(self):
        assert RESOURCES["DeploymentMonitor"]["Properties"]["Type"] == "STANDARD"

    def test_its_placeholders_are_filled(self):
        used = set(re.findall(r"\$\{(\w+)\}", json.dumps(MACHINE)))
        assert used == set(RESOURCES["DeploymentMonitor"]["Properties"]["DefinitionSubstitutions"])

    def test_its_role_allows_what_its_states_do_and_nothing_else(self):
        actions = {
            "arn:aws:states:::lambda:invoke": "lambda:InvokeFunction",
            "arn:aws:states:::dynamodb:updateItem": "dynamodb:UpdateItem",
            "arn:aws:states:::events:putEvents": "events:PutEvents",
        }
        needed = {actions[it["Resource"]] for it in STATES.values() if it["Type"] == "Task"}
        assert needed == {action for it in statements("DeploymentMonitorRole") for action in it["Action"]}

    def test_the_mark_writes_what_an_item_has(self):
        """Read by the same code as an item that the check function wrote."""
        arguments = STATES["Mark"]["Arguments"]
        update = arguments["UpdateExpression"]
        for alias, name in arguments["ExpressionAttributeNames"].items():
            update = update.replace(alias, name)
        written = set(re.findall(r"(\w+) = ", update)) | {"deploymentId"}
        assert written == {
            "deploymentId", "schema", "rev", "executionArn", "startedAt", "deadline", "checkedAt", "finishedAt",
            "status", "reason", "lastReason", "message", "polls", "expiresAt", "targets",
        }
        source = rust("shared/monitor/src/deployment.rs")
        fields = {re.sub(r"_(\w)", lambda m: m[1].upper(), it) for it in re.findall(r"pub (\w+):", source)}
        assert written <= fields

    def test_the_mark_closes_only_what_is_its_own_and_open(self):
        assert STATES["Mark"]["Arguments"]["ConditionExpression"] == (
            "attribute_not_exists(deploymentId) OR (#status = :pending AND executionArn = :arn)")

    @pytest.mark.parametrize("state", ["Publish", "PublishMark"])
    def test_the_event_is_the_contract(self, state):
        entry, = STATES[state]["Arguments"]["Entries"]
        assert (entry["Source"], entry["DetailType"]) == ("dag-monitor", "Deployment Finished")
        assert entry["EventBusName"] == "${EventBusName}"


class TestClosing:
    RULE = RESOURCES["CloseRule"]["Properties"]

    def test_the_rule_sees_every_end_that_runs_no_state(self):
        pattern = self.RULE["EventPattern"]
        assert pattern["source"] == ["aws.states"]
        assert pattern["detail-type"] == ["Step Functions Execution Status Change"]
        assert set(pattern["detail"]["status"]) == {"ABORTED", "TIMED_OUT", "FAILED"}
        assert pattern["detail"]["stateMachineArn"] == [{"Ref": "DeploymentMonitor"}]

    def test_nothing_is_lost_on_the_way_to_the_function(self):
        target, = self.RULE["Targets"]
        queue = {"Fn::GetAtt": ["UnclosedQueue", "Arn"]}
        assert target["Arn"] == {"Fn::GetAtt": ["CheckFunction", "Arn"]}
        assert target["DeadLetterConfig"]["Arn"] == queue
        # And where the function took it, and failed.
        after = RESOURCES["CloseRetries"]["Properties"]
        assert after["DestinationConfig"]["OnFailure"]["Destination"] == queue
        assert any(it["Resource"] == queue and it["Action"] == ["sqs:SendMessage"] for it in statements("CheckRole"))


class TestRights:
    def test_no_statement_is_wider_than_it_must_be(self):
        """`*` as a resource only where AWS has no resource level, and then with a comment above it."""
        lines = TEXT.splitlines()
        for number, line in enumerate(lines):
            if re.match(r"""\s+(- )?Resource: ["']?\*["']?\s*$""", line):
                assert lines[number - 1].lstrip().startswith("#"), f"line {number + 1} has no reason"
        for name in of_type("AWS::IAM::Role") | of_type("AWS::IAM::ManagedPolicy"):
            for it in statements(name):
                assert all("*" not in action for action in it["Action"]), f"{name}: {it['Sid']}"
                if it["Effect"] == "Allow" and it["Resource"] == "*":
                    assert all(re.match(r"ec2:Describe", action) for action in it["Action"]), f"{name}: {it['Sid']}"

    def test_each_function_has_a_role_of_its_own(self):
        functions = of_type("AWS::Serverless::Function")
        roles = [str(it["Properties"]["Role"]) for it in functions.values()]
        assert len(functions) == 2 and len(set(roles)) == 2
        # SAM's ready-made policies are wider.
        assert not any("Policies" in it["Properties"] for it in functions.values())

    def test_check_can_change_neither_registry_nor_secret(self):
        allowed = {action: it["Resource"] for it in statements("CheckRole") for action in it["Action"]}
        assert {it for it in allowed if it.startswith("secretsmanager:")} == {"secretsmanager:GetSecretValue"}
        on_registry = {action for it in statements("CheckRole") for action in it["Action"]
                       if it["Resource"] == {"Fn::GetAtt": ["RegistryTable", "Arn"]}}
        assert on_registry == {"dynamodb:GetItem"}

    def test_register_can_touch_no_deployment(self):
        assert not any("DeploymentsTable" in str(it) or "states:" in str(it) for it in statements("RegisterRole"))

    def test_the_functions_may_call_what_their_adapters_do_and_nothing_else(self):
        """Their roles together: which of the two needs a call, the end-to-end tests show."""
        calls = re.findall(r"^\s*(?:\.client)?\.(\w+)\(\)$|self\.client\.(\w+)\(\)", rust("shared/aws/src"), re.M)
        made = {"".join(part.title() for part in (first or second).split("_")) for first, second in calls}
        allowed = {action.split(":")[1] for role in ("CheckRole", "RegisterRole") for it in statements(role)
                   for action in it["Action"] if action.split(":")[0] in ("dynamodb", "secretsmanager", "events")}
        assert allowed and allowed <= made

    @pytest.mark.parametrize("role", ["CheckRole", "RegisterRole"])
    def test_the_secrets_are_those_of_the_stack(self, role):
        resources = {it["Resource"]["Fn::Sub"] for it in statements(role) if "secretsmanager:" in str(it["Action"])}
        assert all(it.endswith(":secret:${AWS::StackName}/clusters/*") for it in resources) and len(resources) == 1

    def test_every_route_is_signed_and_goes_to_register(self):
        routes = [(path, method, it) for path, item in API["paths"].items() for method, it in item.items()]
        assert len(routes) == 5
        for path, method, it in routes:
            assert it["security"] == [{"sigv4": []}], f"{method} {path}"
            integration = it["x-amazon-apigateway-integration"]
            assert integration["type"] == "aws_proxy"
            assert "${RegisterFunction.Arn}" in integration["uri"]["Fn::Sub"]
        assert API["components"]["securitySchemes"]["sigv4"]["x-amazon-apigateway-authtype"] == "awsSigv4"

    def test_the_api_may_call_register_and_nobody_else_may(self):
        permissions = of_type("AWS::Lambda::Permission")
        assert {str(it["Properties"]["Principal"]) for it in permissions.values()} == {
            "apigateway.amazonaws.com", "events.amazonaws.com"}
        assert all(it["Properties"].get("SourceArn") for it in permissions.values())


class TestTemplate:
    def test_every_parameter_is_explained_and_bounded(self):
        for name, it in PARAMETERS.items():
            assert len(it["Description"]) > 20, name
            assert it.keys() & {"AllowedValues", "AllowedPattern", "MinValue"}, f"{name} takes anything"
            assert "Default" in it, f"{name} must be given"

    def test_a_second_stack_can_be_deployed(self):
        """No physical name that isn't made from the stack's."""
        for name, it in RESOURCES.items():
            for key, value in it["Properties"].items():
                if re.search(r"Name$", key) and key not in ("FunctionName", "StageName"):
                    assert "${AWS::StackName}" in str(value), f"{name}.{key} is fixed"

    def test_the_outputs_are_the_contract(self):
        assert set(TEMPLATE["Outputs"]) >= {
            "ApiUrl", "StateMachineArn", "CheckFunctionName", "RegisterFunctionName", "DeploymentsTableName",
            "RegistryTableName", "EventBusName",
        }
        assert all(it.get("Description") for it in TEMPLATE["Outputs"].values())

    def test_each_function_has_a_log_with_an_end(self):
        groups = of_type("AWS::Logs::LogGroup")
        assert all(it["Properties"]["RetentionInDays"] for it in groups.values())
        for name, it in of_type("AWS::Serverless::Function").items():
            assert it["Properties"]["LoggingConfig"]["LogGroup"]["Ref"] in groups, name

    @pytest.mark.parametrize("function", ["CheckFunction", "RegisterFunction"])
    def test_the_variables_are_those_that_are_read(self, function):
        given = {
            *TEMPLATE["Globals"]["Function"]["Environment"]["Variables"],
            *RESOURCES[function]["Properties"]["Environment"]["Variables"],
        }
        # Read by the library that serves HTTP, not by us.
        given -= {"AWS_LAMBDA_HTTP_IGNORE_STAGE_IN_PATH"}
        package = RESOURCES[function]["Metadata"]["BuildProperties"]["Binary"]
        sources = rust(f"functions/{package}/src") + rust("shared/aws/src")
        for it in given:
            assert f'"{it}"' in sources, f"nobody reads {it}"

    def test_the_binaries_are_the_packages(self):
        for it in of_type("AWS::Serverless::Function").values():
            package = it["Metadata"]["BuildProperties"]["Binary"]
            assert it["Metadata"]["BuildMethod"] == "rust-cargolambda"
            assert f'name = "{package}"' in (ROOT / "functions" / package / "Cargo.toml").read_text()


class TestKubernetes:
    """The guide's manifests ask for no more than the client uses."""

    FOLDER = INFRA / "kubernetes"

    def test_the_account_may_do_two_things(self):
        role = yaml_parse((self.FOLDER / "base/cluster-role.yaml").read_text())
        assert role["metadata"]["name"] == "dag-monitor"
        assert role["rules"] == [
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]},
            {"apiGroups": ["helm.toolkit.fluxcd.io"], "resources": ["helmreleases"], "verbs": ["get"]},
        ]

    def test_the_namespaced_rights_are_the_same(self):
        role = (self.FOLDER / "overlays/namespaced/rights.yaml").read_text().split("---\n")[0]
        base = yaml_parse((self.FOLDER / "base/cluster-role.yaml").read_text())
        assert yaml_parse(role)["rules"] == base["rules"]

    def test_everything_in_base_is_applied(self):
        listed = set(yaml_parse((self.FOLDER / "base/kustomization.yaml").read_text())["resources"])
        assert listed == {it.name for it in (self.FOLDER / "base").iterdir()} - {"kustomization.yaml"}


def statements(name: str) -> list[dict]:
    """The statements of a role or policy, actions as a list."""
    properties = RESOURCES[name]["Properties"]
    documents = [it["PolicyDocument"] for it in properties.get("Policies", [])]
    if "PolicyDocument" in properties:
        documents.append(properties["PolicyDocument"])
    found = [it for document in documents for it in document["Statement"]]
    return [{**it, "Action": [it["Action"]] if isinstance(it["Action"], str) else it["Action"]} for it in found]


def rust(path: str) -> str:
    """The text of a source file, or of all in a folder."""
    it = ROOT / path
    files = sorted(it.rglob("*.rs")) if it.is_dir() else [it]
    assert files, f"{path} has no sources"
    return "\n".join(file.read_text() for file in files)
