"""Holds the template, the state machine, the API's document and the functions' sources in step.

Each of these is right for itself where cfn-lint and the emulator look at it; what they promise each other is checked
here: names of errors and of variables, times, rights.
"""

import json
import re
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path

import jsonata
import jsonschema
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
# What VERDICT's "two polls running" is in step with, in seconds.
SHORTEST_WAIT = 5
# What Step Functions allows a standard execution.
HISTORY_LIMIT = 25_000
# Each route of the API's document, with names that could stand in its path.
ROUTES = {
    (method.upper(), re.sub(r"\{\w+\}", "some-name", path)): it
    for path, item in API["paths"].items() for method, it in item.items() if method != "parameters"
}


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


def longest(state: str, error: str) -> float:
    """Seconds that a task may take which always fails like this: its tries, and the waits between them."""
    it = retrier(state, error)
    return STATES[state]["TimeoutSeconds"] * (it["MaxAttempts"] + 1) + sum(delays(it, it["MaxAttempts"]))


class TestTimes:
    def test_the_longest_deadline_is_the_contract(self):
        assert LONGEST_DEADLINE == 7_200

    def test_the_machine_outlasts_it(self):
        """The check before the deadline may be pending; then come the last wait, the last look, the mark, the event."""
        after = SHORTEST_WAIT + longest("Check", "Internal") + longest("Mark", "States.Timeout")
        after += longest("PublishMark", "States.Timeout")
        assert MACHINE["TimeoutSeconds"] > LONGEST_DEADLINE + after

    @pytest.mark.parametrize("state", ["Mark", "Publish", "PublishMark"])
    def test_what_comes_after_the_verdict_takes_no_longer_than_it_says(self, state):
        assert "at most 5 s a try, about a minute with all retries" in STATES[state]["Comment"]
        assert STATES[state]["TimeoutSeconds"] == 5
        assert longest(state, "States.Timeout") <= 75

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
        rounds = LONGEST_DEADLINE / SHORTEST_WAIT
        assert rounds * a_round + before_and_after < HISTORY_LIMIT
        # A hiccup takes time, half of its longest wait on average, and leaves more behind: however many there are in every
        # round, and as long as the machine may run at all.
        hiccup = retrier("Check", "Transient")
        for retries in range(hiccup["MaxAttempts"] + 1):
            takes = SHORTEST_WAIT + sum(delays(hiccup, retries)) / 2
            events = MACHINE["TimeoutSeconds"] / takes * (a_round + retries * a_retry)
            assert events + before_and_after < HISTORY_LIMIT, f"{retries} hiccups a round"

    def test_the_machine_asks_every_five_seconds(self):
        assert (PARAMETERS["LongestWaitSecs"]["Default"], STATES["Wait"]["Next"]) == (5, "Check")
        assert {wait(5, age, left) for age in (0, 49, 300, 7_000) for left in (-3, 2, 100)} == {SHORTEST_WAIT}

    @pytest.mark.parametrize(("longest", "age", "left", "seconds"), [
        (30, 0, 300, 5), (30, 59, 241, 5), (30, 65, 235, 6), (30, 205, 95, 20), (30, 1_000, 6_000, 30),
        (60, 595, 6_000, 59), (60, 7_000, 200, 60),
        # The last look comes at the deadline, and not before its time.
        (30, 290.5, 9.5, 10), (60, 290.5, 2, 5), (60, 305, -5, 5),
    ])
    def test_a_longer_wait_is_a_tenth_of_the_age_and_ends_at_the_deadline(self, longest, age, left, seconds):
        assert wait(longest, age, left) == seconds

    def test_a_record_seems_alive_and_a_connection_lives_through_the_longest_wait(self):
        """Checks write once a minute at least, and keep idle connections for 90 s."""
        assert PARAMETERS["LongestWaitSecs"]["MaxValue"] <= 60

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

    @pytest.mark.parametrize("state", ["Mark", "Publish", "PublishMark", "TellLater"])
    def test_what_comes_after_the_verdict_can_fail_without_changing_the_end(self, state):
        after = {"Publish": "TellLater", "TellLater": "End"}
        assert catcher(state, "States.Timeout") == after.get(state, "GiveUp")
        assert STATES["Publish"]["Next"] == STATES["TellLater"]["Next"] == "End"
        # What the state got goes on as it came.
        assert all(it["Output"] == "{% $states.input %}" for it in STATES[state]["Catch"])

    def test_what_is_too_large_to_come_back_was_marked(self):
        """An item at its limits; the wildcard does not catch it, and a retry would find it closed."""
        assert catcher("Mark", "States.DataLimitExceeded") == "GiveUp"
        assert STATES["Mark"]["Catch"][0]["ErrorEquals"] == ["States.DataLimitExceeded"]

    @pytest.mark.parametrize("name", ["InvalidRequest", "Transient"])
    def test_the_names_are_those_of_the_check_function(self, name):
        assert f'"{name}"' in rust("functions/check/src")

    def test_the_reasons_are_in_the_closed_list(self):
        reasons = rust("shared/verdict/src/reason.rs")
        written = {it["Output"]["reason"] for it in STATES["Check"]["Catch"]} | {STATES["Puzzled"]["Output"]["reason"]}
        written |= {mark({})["ExpressionAttributeValues"][":starting"]["S"], "Timeout"}
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

    @pytest.mark.parametrize("labels", [{}, {"app": "checkout", "environment": "production"}])
    def test_the_mark_writes_what_an_item_has(self, labels):
        """Read by the same code as an item that the check function wrote."""
        written = written_by(mark(labels)) | {"deploymentId"}
        assert written == {
            "deploymentId", "schema", "rev", "executionArn", "startedAt", "deadline", "checkedAt", "finishedAt",
            "status", "reason", "lastReason", "message", "polls", "expiresAt", "targets",
        } | ({"app", "environment", "appEnvironment"} if labels else set())
        record = re.search(r"^struct Record \{(.*?)^\}", rust("shared/aws/src/functions/deployments.rs"), re.M | re.S)[1]
        fields = {camel(it) for it in re.findall(r"^\s+(?:pub )?(\w+):", record, re.M)}
        assert written <= fields

    @pytest.mark.parametrize("sent", [{}, {"app": "checkout", "environment": "production"}])
    def test_the_mark_gives_exactly_what_its_expressions_name(self, sent):
        """DynamoDB refuses what is named and not given, and what is given and not named."""
        arguments = mark(sent)
        expressions = arguments["UpdateExpression"] + " " + arguments["ConditionExpression"]
        assert set(re.findall(r":\w+", expressions)) == set(arguments["ExpressionAttributeValues"])
        assert set(re.findall(r"#\w+", expressions)) == set(arguments["ExpressionAttributeNames"])
        for it in arguments["ExpressionAttributeValues"].values():
            (kind, value), = it.items()
            assert kind in ("S", "N") and isinstance(value, str) and value

    def test_the_history_lists_what_was_marked(self):
        values = mark({"app": "a" * 63, "environment": "eu-1"})["ExpressionAttributeValues"]
        assert (values[":app"], values[":environment"]) == ({"S": "a" * 63}, {"S": "eu-1"})
        assert values[":appEnvironment"] == {"S": "a" * 63 + "#eu-1"}
        # As the check function makes the key of the index.
        assert 'format!("{app}#{environment}")' in rust("shared/aws/src/functions/deployments.rs")

    @pytest.mark.parametrize("sent", [
        {"app": "checkout"},
        {"environment": "production"},
        {"app": "Checkout", "environment": "production"},
        {"app": "checkout", "environment": "prod uction"},
        {"app": "checkout", "environment": "production\n"},
        {"app": "", "environment": "production"},
        {"app": "a" * 64, "environment": "production"},
        {"app": "a#b", "environment": "production"},
        {"app": None, "environment": "production"},
        {"app": 1, "environment": 2},
        {"app": ["checkout"], "environment": "production"},
        {"app": {"S": "checkout"}, "environment": "production"},
        [{"app": "checkout", "environment": "production"}],
        "checkout", None, 4711,
    ])
    def test_what_are_no_two_labels_are_none(self, sent):
        arguments = mark(sent)
        assert not {":app", ":environment", ":appEnvironment"} & set(arguments["ExpressionAttributeValues"])
        assert not {"app", "environment", "appEnvironment"} & written_by(arguments)

    @pytest.mark.parametrize(("sent", "key"), [
        ({"deploymentId": "A-b_9" + "x" * 75}, "A-b_9" + "x" * 75),
        ({"deploymentId": "x" * 81}, "run-1"),
        ({"deploymentId": ""}, "run-1"),
        ({"deploymentId": "x\n"}, "run-1"),
        ({"deploymentId": "a/b"}, "run-1"),
        ({"deploymentId": 7}, "run-1"),
        ({}, "run-1"),
        ("x", "run-1"),
    ])
    def test_the_mark_finds_the_item(self, sent, key):
        assert mark(sent)["Key"] == {"deploymentId": {"S": key}}

    @pytest.mark.parametrize(("sent", "seconds"), [
        ({}, 300), ({"timeoutSecs": 10}, 10), ({"timeoutSecs": 7_200}, 7_200), ({"timeoutSecs": 9}, 300),
        ({"timeoutSecs": 7_201}, 300), ({"timeoutSecs": "60"}, 300), ({"timeoutSecs": [60]}, 300), (None, 300),
    ])
    def test_the_mark_knows_the_deadline(self, sent, seconds):
        values = mark(sent)["ExpressionAttributeValues"]
        minutes, rest = divmod(seconds, 60)
        assert values[":deadline"]["S"] == f"2026-11-23T{19 + minutes // 60}:{minutes % 60:02}:{rest:02}.000Z"

    @pytest.mark.parametrize("sent", [
        {"app": "checkout", "environment": "production"},
        {"deploymentId": "d", "helmType": "flux", "targets": [{"cluster": "prod-eu", "release": "checkout"}]},
    ])
    def test_either_form_of_a_deployment_reaches_the_check_as_it_came(self, sent):
        payload = evaluated(STATES["Check"]["Arguments"]["Payload"], {"anything": "else"}, sent)
        assert payload == {**sent, "execution": {"arn": CONTEXT["Id"], "startedAt": CONTEXT["StartTime"]}}

    @pytest.mark.parametrize("sent", ["text", None, 1, [1, 2]])
    def test_what_is_no_object_reaches_the_check_for_its_refusal(self, sent):
        assert evaluated(STATES["Check"]["Arguments"]["Payload"], {}, sent) == sent

    def test_the_mark_closes_only_what_is_its_own_and_open(self):
        assert STATES["Mark"]["Arguments"]["ConditionExpression"] == (
            "attribute_not_exists(deploymentId) OR (#status = :pending AND executionArn = :arn)")

    def test_what_the_bus_does_not_take_is_handed_to_the_check_function(self):
        arguments = STATES["TellLater"]["Arguments"]
        # Not waited for: Lambda keeps it, tries it again, and leaves what fails in the queue.
        assert arguments["InvocationType"] == "Event"
        assert arguments["FunctionName"] == "${CheckFunctionArn}"
        payload = arguments["Payload"]
        assert f'"{payload["detail-type"]}"' in rust("functions/check/src")
        assert {name: evaluated(it, {"deploymentId": "d"}, {}) for name, it in payload["detail"].items()} == {
            "executionArn": CONTEXT["Id"], "deploymentId": "d"}

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


class TestDailyProbe:
    RULE = RESOURCES["ProbeRule"]["Properties"]

    def test_it_comes_once_a_day_and_goes_to_register(self):
        assert self.RULE["ScheduleExpression"] == "rate(1 day)"
        # A schedule runs on the account's default bus only.
        assert not self.RULE.keys() & {"EventBusName", "EventPattern", "State"}
        target, = self.RULE["Targets"]
        assert target["Arn"] == {"Fn::GetAtt": ["RegisterFunction", "Arn"]}
        # The event as EventBridge sends it, which tells it from a request of the API.
        assert not target.keys() & {"Input", "InputPath", "InputTransformer"}
        permission = RESOURCES["ProbeRulePermission"]["Properties"]
        assert permission["FunctionName"] == {"Ref": "RegisterFunction"}
        assert permission["SourceArn"] == {"Fn::GetAtt": ["ProbeRule", "Arn"]}

    def test_a_day_without_a_probe_is_seen(self):
        queue = {"Fn::GetAtt": ["UnprobedQueue", "Arn"]}
        target, = self.RULE["Targets"]
        assert target["DeadLetterConfig"]["Arn"] == queue
        assert target["RetryPolicy"]["MaximumEventAgeInSeconds"] < 86_400
        after = RESOURCES["ProbeRetries"]["Properties"]
        assert after["FunctionName"] == {"Ref": "RegisterFunction"}
        assert after["DestinationConfig"]["OnFailure"]["Destination"] == queue
        assert [it["Action"] for it in statements("RegisterRole") if it["Resource"] == queue] == [["sqs:SendMessage"]]
        it, = RESOURCES["UnprobedQueuePolicy"]["Properties"]["PolicyDocument"]["Statement"]
        assert it["Condition"] == {"ArnEquals": {"aws:SourceArn": {"Fn::GetAtt": ["ProbeRule", "Arn"]}}}

    def test_the_sample_is_what_the_function_takes(self):
        event = json.loads((INFRA / "events/scheduled-probe.json").read_text())
        sources = rust("functions/register/src")
        assert f'"{event["source"]}"' in sources and f'"{event["detail-type"]}"' in sources


class TestSamples:
    @pytest.mark.parametrize("path", sorted((INFRA / "events").glob("*.json")), ids=lambda it: it.name)
    def test_a_request_is_for_a_route_of_the_api(self, path):
        event = json.loads(path.read_text())
        if "httpMethod" not in event:
            assert path.name.startswith(("check-", "execution-", "scheduled-"))
            return
        method, resource, context = event["httpMethod"], event["resource"], event["requestContext"]
        assert method.lower() in API["paths"][resource]
        names = event["pathParameters"] or {}
        assert event["path"] == re.sub(r"\{(\w+)\}", lambda it: names[it[1]], resource)
        assert (context["httpMethod"], context["resourcePath"]) == (method, resource)
        assert context["path"] == f"/{context['stage']}{event['path']}"
        assert event["multiValueHeaders"] == {name: [it] for name, it in event["headers"].items()}
        query = event["queryStringParameters"]
        assert event["multiValueQueryStringParameters"] == (query and {name: [it] for name, it in query.items()})
        assert (event["body"] is None) == ("Content-Type" not in event["headers"])
        assert event["body"] is None or json.loads(event["body"])

    def test_every_kind_of_thing_has_one(self):
        shown = {json.loads(it.read_text()).get("resource") for it in (INFRA / "events").iterdir()} - {None}
        assert set(API["paths"]) - shown == {"/apps/{app}/environments"}


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
                    # Of these two services, the Describe actions and what sends traces (service authorization reference).
                    assert all(re.match(r"ec2:Describe|xray:Put(TraceSegments|TelemetryRecords)$", action)
                               for action in it["Action"]), f"{name}: {it['Sid']}"

    def test_a_part_is_open_only_where_it_must_be(self):
        """Each `*` within a resource, by what stands around it."""
        allowed = (
            # Secrets Manager ends an ARN with six characters of its own; the clusters' ids aren't known.
            r":secret:\$\{AWS::StackName\}/clusters/\*",
            # Executions aren't known before they are started.
            r":execution:\$\{DeploymentMonitor\.Name\}:\*",
            # Network interfaces neither.
            r":ec2:\$\{AWS::Region\}:\$\{AWS::AccountId\}:\*/\*",
            # A stack's own id isn't known to who describes it by its name.
            r":stack/\$\{AWS::StackName\}/\*",
            # Ids and names in the paths of the API, which TestPolicies counts.
            r":\$\{Api\}/v1/[A-Z]+/[a-z*/.]+",
        )
        for name in of_type("AWS::IAM::Role") | of_type("AWS::IAM::ManagedPolicy"):
            for it in statements(name):
                for resource in resources(it):
                    text = resource.get("Fn::Sub", "") if isinstance(resource, dict) else ""
                    if it["Effect"] == "Allow" and "*" in text:
                        assert any(re.search(end + "$", text) for end in allowed), f"{name}: {text}"

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

    def test_register_starts_and_shows_deployments_and_writes_none(self):
        on_deployments = {(action, str(it["Resource"])) for it in statements("RegisterRole") for action in it["Action"]
                          if "DeploymentsTable" in str(it["Resource"]) or action.startswith("states:")}
        execution = ("arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}:execution:"
                     "${DeploymentMonitor.Name}:*")
        assert on_deployments == {
            ("dynamodb:GetItem", str({"Fn::GetAtt": ["DeploymentsTable", "Arn"]})),
            ("dynamodb:Query", str({"Fn::Sub": "${DeploymentsTable.Arn}/index/byEnvironment"})),
            ("states:StartExecution", str({"Ref": "DeploymentMonitor"})),
            ("states:DescribeExecution", str({"Fn::Sub": execution})),
        }

    def test_the_functions_may_call_what_their_adapters_do_and_nothing_else(self):
        """Their roles together: which of the two needs a call, the end-to-end tests show."""
        calls = re.findall(r"^\s*(?:\.client)?\.(\w+)\(\)$|\bclient\.(\w+)\(\)", rust("shared/aws/src"), re.M)
        made = {"".join(part.title() for part in (first or second).split("_")) for first, second in calls}
        # What is signed without an SDK names its operation.
        made |= set(re.findall(r'^\s*operation: "(\w+)",$', rust("shared/aws/src"), re.M))
        # A transaction as a whole needs no right, what it consists of does.
        if "TransactWriteItems" in made:
            made |= {"ConditionCheckItem"}
        services = ("dynamodb", "secretsmanager", "events", "states", "eks", "sts")
        allowed = {action.split(":")[1] for name in ("CheckRole", "RegisterRole", "EksClustersPolicy", "EksRolesPolicy")
                   for it in statements(name) for action in it["Action"] if action.split(":")[0] in services}
        assert allowed and allowed <= made, allowed - made

    @pytest.mark.parametrize("role", ["CheckRole", "RegisterRole"])
    def test_the_secrets_are_those_of_the_stack(self, role):
        resources = {it["Resource"]["Fn::Sub"] for it in statements(role) if "secretsmanager:" in str(it["Action"])}
        assert all(it.endswith(":secret:${AWS::StackName}/clusters/*") for it in resources) and len(resources) == 1

    def test_every_route_is_signed_and_goes_to_register(self):
        assert len(ROUTES) >= 14
        for (method, path), it in ROUTES.items():
            assert it["security"] == [{"sigv4": []}], f"{method} {path}"
            integration = it["x-amazon-apigateway-integration"]
            assert (integration["httpMethod"], "credentials" in integration) == ("POST", False)
            assert integration["type"] == "aws_proxy"
            assert "${RegisterFunction.Arn}" in integration["uri"]["Fn::Sub"]
        assert API["components"]["securitySchemes"]["sigv4"]["x-amazon-apigateway-authtype"] == "awsSigv4"

    def test_the_api_may_call_register_and_nobody_else_may(self):
        permissions = of_type("AWS::Lambda::Permission")
        assert {str(it["Properties"]["Principal"]) for it in permissions.values()} == {
            "apigateway.amazonaws.com", "events.amazonaws.com"}
        assert all(it["Properties"].get("SourceArn") for it in permissions.values())
        source = RESOURCES["RegisterPermission"]["Properties"]["SourceArn"]["Fn::Sub"]
        assert source.endswith(":${Api}/" + RESOURCES["Api"]["Properties"]["StageName"] + "/*")

    @pytest.mark.parametrize(("role", "actions"), [
        ("CheckRole", {"kms:Decrypt"}),
        ("RegisterRole", {"kms:GenerateDataKey", "kms:Encrypt", "kms:Decrypt"}),
    ])
    def test_a_key_is_used_through_secrets_manager_and_only_where_one_is_given(self, role, actions):
        given = [it for it in statements(role) if any(action.startswith("kms:") for action in it["Action"])]
        it, = given
        assert it["If"] == "WithSecretKey" and set(it["Action"]) == actions
        assert it["Resource"] == {"Ref": "SecretKmsKeyArn"}
        assert it["Condition"] == {
            "StringEquals": {"kms:ViaService": {"Fn::Sub": "secretsmanager.${AWS::Region}.${AWS::URLSuffix}"}}}

    def test_a_secret_changes_its_key_only_where_one_is_given(self):
        it, = (it for it in statements("RegisterRole") if it["Action"] == ["secretsmanager:UpdateSecret"])
        assert it["If"] == "WithSecretKey"
        assert not any("UpdateSecret" in str(it["Action"]) for it in statements("CheckRole"))

    @pytest.mark.parametrize(("policy", "condition", "action", "parameter"), [
        ("EksClustersPolicy", "DescribesEks", "eks:DescribeCluster", "EksClusterArns"),
        ("EksRolesPolicy", "AssumesEksRoles", "sts:AssumeRole", "EksRoleArns"),
    ])
    def test_eks_is_entered_only_where_it_is_given(self, policy, condition, action, parameter):
        assert RESOURCES[policy]["Condition"] == condition
        it, = statements(policy)
        assert (it["Action"], it["Resource"]) == ([action], {"Fn::Split": [",", {"Ref": parameter}]})
        for role in ("CheckRole", "RegisterRole"):
            attached = RESOURCES[role]["Properties"]["ManagedPolicyArns"]
            assert {"Fn::If": [condition, {"Ref": policy}, {"Ref": "AWS::NoValue"}]} in attached
            assert not any(it.startswith(("eks:", "sts:")) for of in statements(role) for it in of["Action"])

    @pytest.mark.parametrize(("condition", "parameter"), [
        ("DescribesEks", "EksClusterArns"), ("AssumesEksRoles", "EksRoleArns"), ("WithSecretKey", "SecretKmsKeyArn"),
        ("InVpc", "VpcSubnetIds"), ("WithAlarms", "AlarmTopicArn"),
    ])
    def test_a_condition_is_its_parameter(self, condition, parameter):
        assert TEMPLATE["Conditions"][condition] == {"Fn::Not": [{"Fn::Equals": [{"Ref": parameter}, ""]}]}
        assert PARAMETERS[parameter]["Default"] == ""


class TestPolicies:
    """The three that the stack gives to people and pipelines, as IAM reads them: a `*` matches a slash, too."""

    READ = {
        "GET /clusters", "GET /clusters/some-name", "GET /apps/some-name/environments",
        "GET /apps/some-name/environments/some-name", "GET /deployments", "GET /deployments/some-name",
        "GET /openapi.json",
    }
    MAY = {
        "RegistrarPolicy": READ | {
            "POST /clusters", "PUT /clusters/some-name", "DELETE /clusters/some-name",
            "POST /clusters/some-name/probe", "PUT /apps/some-name/environments/some-name",
            "DELETE /apps/some-name/environments/some-name",
        },
        "DeployerPolicy": READ - {"GET /clusters", "GET /clusters/some-name"} | {"POST /deployments"},
        "ReaderPolicy": READ,
    }
    # What `dag-monitor` needs to find the API by the stack's name.
    FINDS = ["cloudformation:DescribeStacks"]

    @pytest.mark.parametrize("policy", MAY)
    def test_it_opens_these_routes_and_no_others(self, policy):
        opened = {f"{method} {path}" for method, path in ROUTES
                  if any(fnmatchcase(f"{method}{path}", it) for it in self.patterns(policy))}
        assert opened == self.MAY[policy]

    @pytest.mark.parametrize("policy", MAY)
    def test_nothing_in_it_is_for_no_route(self, policy):
        for it in self.patterns(policy):
            assert any(fnmatchcase(f"{method}{path}", it) for method, path in ROUTES), it
            # One for each route; a `*` for what is in braces there, and for nothing else.
            assert re.sub(r"\{\w+\}", "*", it) in {
                method.upper() + re.sub(r"\{\w+\}", "*", path) for path, item in API["paths"].items() for method in item}

    def test_every_route_is_opened_by_one(self):
        assert set().union(*self.MAY.values()) == {f"{method} {path}" for method, path in ROUTES}

    def test_only_the_deployer_reaches_the_state_machine(self):
        execution = ("arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}:execution:"
                     "${DeploymentMonitor.Name}:*")
        others = [(it["Action"], it["Resource"]) for it in statements("DeployerPolicy")
                  if it["Action"] not in (["execute-api:Invoke"], self.FINDS)]
        assert others == [
            (["states:StartExecution"], {"Ref": "DeploymentMonitor"}),
            (["states:DescribeExecution", "states:GetExecutionHistory", "states:StopExecution"],
             {"Fn::Sub": execution}),
        ]
        for policy in ("RegistrarPolicy", "ReaderPolicy"):
            assert all(it["Action"] in (["execute-api:Invoke"], self.FINDS) for it in statements(policy))

    @pytest.mark.parametrize("policy", MAY)
    def test_it_lets_the_program_find_the_api_of_this_stack_and_of_no_other(self, policy):
        # IAM is asked with a `*` for the stack's own id where a stack is described by its name.
        stack = "arn:${AWS::Partition}:cloudformation:${AWS::Region}:${AWS::AccountId}:stack/${AWS::StackName}/*"
        found = [it["Resource"] for it in statements(policy) if it["Action"] == self.FINDS]
        assert found == [{"Fn::Sub": stack}]

    def test_nobody_has_them_but_whom_they_are_given(self):
        for policy in self.MAY:
            assert not RESOURCES[policy]["Properties"].keys() & {"Roles", "Users", "Groups", "ManagedPolicyName"}
            assert TEMPLATE["Outputs"][f"{policy}Arn"]["Value"] == {"Ref": policy}
            assert not any(policy in str(it) for name, it in RESOURCES.items() if name != policy)

    @staticmethod
    def patterns(policy: str) -> list[str]:
        """What is opened, as `METHOD/path`."""
        start = "arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:${Api}/v1/"
        found = [resource["Fn::Sub"] for it in statements(policy) if it["Action"] == ["execute-api:Invoke"]
                 for resource in resources(it)]
        assert found and all(it.startswith(start) for it in found)
        return [it.removeprefix(start) for it in found]


# What AWS publishes, by namespace: metrics, and the dimensions that each has by itself. "Available CloudWatch metrics for
# Amazon SQS" (SQS developer guide), "Types of metrics for Lambda functions" (Lambda developer guide), "Monitoring Step
# Functions metrics using Amazon CloudWatch" (Step Functions developer guide).
PUBLISHED = {
    "AWS/SQS": ({"ApproximateNumberOfMessagesVisible"}, {"QueueName"}),
    "AWS/Lambda": ({"Errors", "Throttles"}, {"FunctionName"}),
    "AWS/States": ({
        "ExecutionsStarted", "ExecutionsSucceeded", "ExecutionsFailed", "ExecutionsAborted", "ExecutionsTimedOut",
        "ExecutionThrottled",
    }, {"StateMachineArn"}),
}
# The lines that the handlers write, to which their own tests hold them.
LINES = {it.stem: json.loads(it.read_text()) for it in (ROOT / "tests/fixtures/metrics").glob("*.json")}
# Of our dimensions, those whose values are one of a few.
CLOSED = {"Status": ["succeeded", "failed"]}


def is_written(namespace: str, metric: str, dimensions: dict[str, str]) -> bool:
    """Whether somebody writes this metric with just these dimensions, and these values where they are named."""
    if namespace in PUBLISHED:
        metrics, names = PUBLISHED[namespace]
        return metric in metrics and set(dimensions) == names
    for line in LINES.values():
        for directive in line["_aws"]["CloudWatchMetrics"]:
            if directive["Namespace"] != namespace or metric not in {it["Name"] for it in directive["Metrics"]}:
                continue
            for names in directive["Dimensions"]:
                if set(names) == set(dimensions) and all(
                        value == line[name] or value in CLOSED.get(name, [])
                        for name, value in dimensions.items() if name not in ("Stack", "Cluster")):
                    return True
    return False


def alarms() -> dict[str, dict]:
    return {name: it["Properties"] for name, it in of_type("AWS::CloudWatch::Alarm").items()}


def dashboard() -> list[dict]:
    """The widgets, with names in the place of what CloudFormation fills in."""
    body = RESOURCES["OperatorDashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    return json.loads(re.sub(r"\$\{!", "${", re.sub(r"\$\{(?!!)([\w:.]+)\}", r"<\1>", body)))["widgets"]


class TestOperators:
    @pytest.mark.parametrize("name", alarms())
    def test_an_alarm_can_fire(self, name):
        it = alarms()[name]
        assert is_written(it["Namespace"], it["MetricName"], {one["Name"]: one["Value"] for one in it["Dimensions"]})
        # And is of something in the stack.
        for one in it["Dimensions"]:
            value = one["Value"]
            kind = {"QueueName": "AWS::SQS::Queue", "FunctionName": "AWS::Serverless::Function",
                    "StateMachineArn": "AWS::Serverless::StateMachine"}.get(one["Name"])
            if kind:
                logical = value["Fn::GetAtt"][0] if "Fn::GetAtt" in value else value["Ref"]
                assert RESOURCES[logical]["Type"] == kind
            elif one["Name"] == "Stack":
                assert value == {"Ref": "AWS::StackName"}
        assert it["AlarmActions"] == [{"Ref": "AlarmTopicArn"}]
        assert RESOURCES[name]["Condition"] == "WithAlarms"
        assert len(it["AlarmDescription"]) > 20

    def test_a_metric_that_nobody_writes_is_told(self):
        """So that the tests beside this one can fail."""
        assert is_written("dag-monitor", "Verdicts", {"Stack": "", "Status": "failed", "Reason": "MonitorError"})
        assert not is_written("dag-monitor", "Verdicts", {"Stack": "", "Reason": "MonitorError"})
        assert not is_written("dag-monitor", "Verdicts", {"Stack": "", "Status": "failed", "Reason": "MonitorFailed"})
        assert not is_written("dag-monitor", "Verdict", {"Stack": "", "Status": "failed", "Reason": "MonitorError"})
        assert not is_written("DagMonitor", "PollDuration", {"Stack": ""})
        assert not is_written("AWS/Lambda", "Errors", {"FunctionName": "", "Resource": ""})

    def test_the_stack_is_named_as_in_the_lines(self):
        assert TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]["STACK_NAME"] == {"Ref": "AWS::StackName"}

    @pytest.mark.parametrize("name", alarms())
    def test_silence_is_good_but_for_what_is_written_once_a_day(self, name):
        it = alarms()[name]
        daily = it["Namespace"] == "dag-monitor" and it["MetricName"] in LINES["probed"]
        assert it["TreatMissingData"] == ("ignore" if daily else "notBreaching")

    def test_each_queue_that_should_be_empty_has_an_alarm(self):
        watched = {one["Value"]["Fn::GetAtt"][0] for it in alarms().values() for one in it["Dimensions"]
                   if one["Name"] == "QueueName"}
        assert watched == set(of_type("AWS::SQS::Queue"))

    def test_what_ends_is_told_as_early_as_by_the_probe(self):
        days = int(re.search(r"WARN_BEFORE: SignedDuration = SignedDuration::from_hours\((\d+) \* 24\)",
                             rust("shared/monitor/src/probe.rs"))[1])
        for name in ("TokenEndsAlarm", "CertificateEndsAlarm"):
            assert alarms()[name]["Threshold"] == days * 86_400
            assert f"within {days} days" in alarms()[name]["AlarmDescription"]

    @pytest.mark.parametrize("widget", dashboard(), ids=lambda it: it["properties"]["title"])
    def test_a_widget_shows_what_is_written(self, widget):
        assert widget["type"] == "metric" and widget["properties"]["region"] == "<AWS::Region>"
        for row in widget["properties"]["metrics"]:
            if isinstance(row[0], dict):
                found = re.fullmatch(
                    r"SEARCH\('\{([^,]+),([\w,]+)\} MetricName=\"(\w+)\" Stack=\"<AWS::StackName>\"', '\w+', \d+\)",
                    row[0]["expression"])
                namespace, names, metric = found.groups()
                names = names.split(",")
                dimensions = dict.fromkeys(names, "")
                # Any of them: those of a line.
                dimensions |= {name: next(it[name] for it in LINES.values() if name in it and metric in it) for name in names}
                assert all(it in names for it in re.findall(r"Dim\.(\w+)", row[0]["label"]))
            else:
                namespace, metric, *rest = [it for it in row if not isinstance(it, dict)]
                dimensions = dict(zip(rest[::2], rest[1::2], strict=True))
            assert is_written(namespace, metric, dimensions), row

    def test_the_widgets_lie_side_by_side(self):
        taken = [(it["x"] + x, it["y"] + y) for it in dashboard() for x in range(it["width"]) for y in range(it["height"])]
        assert len(taken) == len(set(taken)) and max(x for x, _ in taken) < 24

    def test_every_metric_of_ours_is_shown_or_rings(self):
        shown = json.dumps(dashboard()) + json.dumps(list(alarms().values()))
        ours = {metric["Name"] for line in LINES.values() for directive in line["_aws"]["CloudWatchMetrics"]
                for metric in directive["Metrics"]}
        assert {it for it in ours if it not in shown} == set()
        # And explained.
        text = (INFRA / "README.md").read_text()
        assert {it for it in ours if f"`{it}`" not in text} == set()

    def test_traces_are_sent_only_where_they_are_wanted(self):
        assert TEMPLATE["Globals"]["Function"]["Tracing"] == {"Fn::If": ["WithTracing", "Active", "PassThrough"]}
        machine = RESOURCES["DeploymentMonitor"]["Properties"]["Tracing"]
        assert machine == {"Enabled": {"Fn::If": ["WithTracing", True, False]}}
        assert RESOURCES["TracingPolicy"]["Condition"] == "WithTracing"
        assert PARAMETERS["Tracing"]["Default"] == "off"
        for role in of_type("AWS::IAM::Role").values():
            attached = {"Fn::If": ["WithTracing", {"Ref": "TracingPolicy"}, {"Ref": "AWS::NoValue"}]}
            assert attached in role["Properties"]["ManagedPolicyArns"]
        it, = statements("TracingPolicy")
        assert it["Action"] == ["xray:PutTraceSegments", "xray:PutTelemetryRecords"]

    def test_the_queries_name_what_is_in_the_lines(self):
        """Those of the READMEs: each field is one of a line, or one that the query makes or CloudWatch knows."""
        text = (INFRA / "README.md").read_text() + (ROOT / "README.md").read_text()
        queries = re.findall(r"```logs\n(.*?)```", text, re.S)
        assert len(queries) >= 4
        fields = {name for line in LINES.values() for name in line}
        for query in queries:
            bare = re.sub(r'"[^"]*"|/[^/]*/', "", query)
            made = set(re.findall(r"\bas (\w+)", bare))
            words = set(re.findall(r"[@\w.]+", bare)) - made
            language = {
                "fields", "filter", "stats", "sort", "limit", "by", "as", "and", "or", "in", "like", "desc", "asc", "sum",
                "count", "avg", "max", "pct", "bin", "ispresent", "not", "clusters.0", "clusters.1",
            }
            unknown = {it for it in words if it not in language | fields and not re.fullmatch(r"@\w+|\d+\w?", it)}
            assert not unknown, query


EVENTS = {it.stem: json.loads(it.read_text()) for it in (ROOT / "tests/fixtures/events").glob("*.json")}
NOTIFY = yaml_parse((INFRA / "examples/notify.yaml").read_text())


def event_schema(name: str) -> jsonschema.Draft202012Validator:
    """A schema of the events, with what it takes from the API's document; `nullable` as JSON Schema says it."""
    def converted(it):
        if isinstance(it, list):
            return [converted(one) for one in it]
        if not isinstance(it, dict):
            return it
        made = {key: converted(one) for key, one in it.items() if key not in ("nullable", "example", "description")
                or isinstance(one, dict)}
        if "$ref" in made:
            made["$ref"] = made["$ref"].replace("openapi.yaml#/components/schemas/", "#/$defs/").replace(
                "#/components/schemas/", "#/$defs/")
        return {"anyOf": [made, {"type": "null"}]} if it.get("nullable") is True else made

    schemas = yaml_parse((INFRA / "event-schema.yaml").read_text())["components"]["schemas"]
    root = {**converted(schemas[name]), "$defs": converted(API["components"]["schemas"])}
    return jsonschema.Draft202012Validator(root)


class TestEvents:
    SCHEMAS = {"deployment-finished": "DeploymentFinished", "cluster-needs-attention": "ClusterNeedsAttention"}

    @pytest.mark.parametrize("name", EVENTS)
    def test_an_event_is_of_its_schema_and_of_no_other(self, name):
        for other, schema in self.SCHEMAS.items():
            assert event_schema(schema).is_valid(EVENTS[name]) == (name == other), [
                it.message for it in event_schema(schema).iter_errors(EVENTS[name])]

    @pytest.mark.parametrize(("name", "change"), [
        ("deployment-finished", {"status": "pending"}),
        ("deployment-finished", {"finishedAt": None}),
        ("deployment-finished", {"reason": "Broken"}),
        ("deployment-finished", {"token": "x"}),
        ("cluster-needs-attention", {"cluster": "Prod EU"}),
        ("cluster-needs-attention", {"reason": "Broken"}),
        ("cluster-needs-attention", {"token": "x"}),
    ])
    def test_what_is_wrong_is_not_of_the_schema(self, name, change):
        event = {**EVENTS[name], "detail": {**EVENTS[name]["detail"], **change}}
        assert not event_schema(self.SCHEMAS[name]).is_valid(event)

    @pytest.mark.parametrize("labels", [{}, {"app": "checkout", "environment": "production"}])
    def test_what_the_state_machine_tells_is_of_the_schema(self, labels):
        values = mark(labels)["ExpressionAttributeValues"]
        attributes = {"deploymentId": {"S": "run-1"}}
        update = mark(labels)
        for alias, value in re.findall(r"([#\w]+) = (:\w+)", update["UpdateExpression"]):
            attributes[update["ExpressionAttributeNames"].get(alias, alias)] = values[value]
        for name, value in re.findall(r"([#\w]+) = if_not_exists\([^,]+, (:\w+)\)", update["UpdateExpression"]):
            attributes[update["ExpressionAttributeNames"].get(name, name)] = values[value]
        expression = jsonata.Jsonata.jsonata(STATES["Mark"]["Output"]["answer"][2:-2].strip())
        expression.register_lambda("parse", json.loads)
        answer = expression.evaluate(None, {"states": {"result": {"Attributes": attributes}}})
        # What is undefined is left out.
        answer = {key: it for key, it in answer.items() if it is not None or key not in ("app", "environment")}
        event = {"source": "dag-monitor", "detail-type": "Deployment Finished", "detail": answer}
        assert [f"{it.json_path}: {it.message}" for it in event_schema("DeploymentFinished").iter_errors(event)] == []

    @pytest.mark.parametrize(("rule", "takes"), [
        ("FailedToChat", {"deployment-finished"}),
        ("AttentionToChat", {"cluster-needs-attention"}),
        ("AllToWebhook", {"deployment-finished", "cluster-needs-attention"}),
    ])
    def test_a_rule_of_the_example_takes_what_it_says(self, rule, takes):
        def matches(pattern, it) -> bool:
            if isinstance(pattern, list):
                return it in pattern
            return all(key in it and matches(one, it[key]) for key, one in pattern.items())

        properties = NOTIFY["Resources"][rule]["Properties"]
        assert properties["EventBusName"] == {"Ref": "EventBusName"}
        assert {name for name, it in EVENTS.items() if matches(properties["EventPattern"], it)} == takes
        succeeded = EVENTS["deployment-finished"] | {
            "detail": {**EVENTS["deployment-finished"]["detail"], "status": "succeeded"}}
        assert matches(properties["EventPattern"], succeeded) == (rule == "AllToWebhook")

        transformer = properties["Targets"][0].get("InputTransformer")
        for name in takes if transformer else []:
            template = transformer["InputTemplate"]
            for variable, path in transformer["InputPathsMap"].items():
                value = EVENTS[name]
                for part in path.removeprefix("$.").split("."):
                    value = value[part]
                assert isinstance(value, str)
                template = template.replace(f"<{variable}>", json.dumps(value))
            told = json.loads(template)
            # "Custom notifications", Amazon Q Developer in chat applications administrator guide.
            assert (told["version"], told["source"]) == ("1.0", "custom")
            assert told["content"]["title"] and told["content"]["description"]


class TestTemplate:
    def test_every_parameter_is_explained_and_bounded(self):
        for name, it in PARAMETERS.items():
            assert len(it["Description"]) > 20, name
            assert it.keys() & {"AllowedValues", "AllowedPattern", "MinValue"}, f"{name} takes anything"
            assert "Default" in it, f"{name} must be given"
            groups = TEMPLATE["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
            assert sum(name in group["Parameters"] for group in groups) == 1, f"{name} is in no group, or in two"

    CLUSTER = "arn:aws:eks:eu-central-1:123456789012:cluster/prod-eu"
    ROLE = "arn:aws:iam::210987654321:role/dag-monitor"
    TOPIC = "arn:aws:sns:eu-central-1:123456789012:on-call"
    KEY = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"

    @pytest.mark.parametrize(("parameter", "good", "bad"), [
        ("EksClusterArns", [
            "", CLUSTER, f"{CLUSTER},arn:aws:eks:*:*:cluster/team_*", "arn:aws-cn:eks:cn-north-1:123456789012:cluster/a",
        ], [
            "*", "prod-eu", f"{CLUSTER},", f"{CLUSTER}, {CLUSTER}", f"{CLUSTER} ", ROLE, "arn:aws:eks:*:*:*",
            "arn:aws:eks:eu-central-1:12345:cluster/a", CLUSTER + "/b", CLUSTER + "\n",
            CLUSTER.replace("cluster/", "nodegroup/"),
        ]),
        ("EksRoleArns", [
            "", ROLE, f"{ROLE},{ROLE}2", "arn:aws-us-gov:iam::210987654321:role/a/path/dag.monitor@x",
        ], [
            "*", f"{ROLE}*", "arn:aws:iam::*:role/a", "arn:aws:iam::210987654321:user/a", f"{ROLE}, {ROLE}", f"{ROLE},",
            "arn:aws:iam::aws:role/a", CLUSTER, ROLE + "\n",
        ]),
        ("SecretKmsKeyArn", [
            "", KEY, "arn:aws:kms:eu-central-1:123456789012:key/mrk-1234abcd12ab34cd56ef1234567890ab",
        ], [
            "*", "1234abcd-12ab-34cd-56ef-1234567890ab", "alias/mine", f"{KEY},{KEY}", KEY.replace("key/", "alias/"),
            "arn:aws:kms:eu-central-1:123456789012:key/*", "arn:aws:kms:*:123456789012:key/a", KEY + "\n",
        ]),
        ("AlarmTopicArn", ["", TOPIC, TOPIC.replace("aws", "aws-cn")], [
            "*", "on-call", f"{TOPIC},{TOPIC}", TOPIC + ".fifo", TOPIC + ":8a21d249-4329-4871-acc6-7be709c6ea7f", TOPIC + "\n",
        ]),
        ("AllowedApiServerCidrs", ["", "10.0.0.0/8", "10.0.0.0/8,fd00::/8"], ["10.0.0.0", "10.0.0.0/8, fd00::/8", "*"]),
        ("VpcSubnetIds", ["", "subnet-1a,subnet-2b"], ["subnet-1a,", "sg-1a", "subnet-1A"]),
        ("VpcSecurityGroupIds", ["", "sg-1a,sg-2b"], ["sg-1a,", "subnet-1a"]),
    ])
    def test_a_parameter_takes_what_it_says(self, parameter, good, bad):
        pattern = PARAMETERS[parameter]["AllowedPattern"]
        # The whole of it, also where an engine takes a part.
        assert pattern[0] == "^" and pattern[-1] == "$"
        assert [it for it in good if not re.fullmatch(pattern[1:-1], it)] == []
        assert [it for it in bad if re.fullmatch(pattern[1:-1], it)] == []
        # The example in the words is one of those that are taken.
        example = PARAMETERS[parameter]["ConstraintDescription"].rsplit(" ", 1)[1]
        assert example and re.fullmatch(pattern[1:-1], example)

    def test_the_history_is_listed_from_the_index_alone(self):
        index, = RESOURCES["DeploymentsTable"]["Properties"]["GlobalSecondaryIndexes"]
        assert index["IndexName"] == "byEnvironment"
        assert index["Projection"] == {
            "ProjectionType": "INCLUDE", "NonKeyAttributes": ["status", "reason", "finishedAt", "expiresAt"]}
        listed = re.search(r"pub struct Summary \{(.*?)\n\}", rust("shared/monitor/src/deployment.rs"), re.S)[1]
        keys = {it["AttributeName"] for it in index["KeySchema"]} | {"deploymentId"}
        assert {camel(it) for it in re.findall(r"pub (\w+):", listed)} <= keys | {*index["Projection"]["NonKeyAttributes"]}

    def test_the_document_is_one_that_a_rest_api_takes(self):
        assert API["openapi"] == "3.0.3"
        assert TEMPLATE["Globals"]["Api"]["OpenApiVersion"] == "3.0.3"

    def test_every_reason_of_a_probe_is_explained(self):
        """In docs/reasons.md; those that a deployment can have, too, are explained there once."""
        explained = re.findall(r"^### `(\w+)`$", (ROOT / "docs" / "reasons.md").read_text(), re.M)
        assert len(explained) == len(set(explained))
        assert {*API["components"]["schemas"]["ProbeReason"]["enum"]} <= {*explained}

    def test_the_external_id_is_the_stacks_own(self):
        """The uuid at the end of the stack's id, for the functions and for who writes the trust policies alike."""
        own = {"Fn::Select": [2, {"Fn::Split": ["/", {"Ref": "AWS::StackId"}]}]}
        assert TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]["EKS_EXTERNAL_ID"] == own
        assert TEMPLATE["Outputs"]["EksExternalId"]["Value"] == own

    def test_a_second_stack_can_be_deployed(self):
        """No physical name that isn't made from the stack's."""
        for name, it in RESOURCES.items():
            for key, value in it["Properties"].items():
                if re.search(r"Name$", key) and key not in ("FunctionName", "StageName", "MetricName"):
                    assert "${AWS::StackName}" in str(value), f"{name}.{key} is fixed"

    def test_the_outputs_are_the_contract(self):
        assert set(TEMPLATE["Outputs"]) >= {
            "ApiUrl", "StateMachineArn", "CheckFunctionName", "RegisterFunctionName", "DeploymentsTableName",
            "RegistryTableName", "EventBusName", "UnclosedQueueUrl", "UnprobedQueueUrl", "CheckRoleArn",
            "RegisterRoleArn", "EksExternalId", "RegistrarPolicyArn", "DeployerPolicyArn", "ReaderPolicyArn",
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
            *RESOURCES[function]["Properties"].get("Environment", {}).get("Variables", {}),
        }
        # Read by the library that serves HTTP, not by us.
        given -= {"AWS_LAMBDA_HTTP_IGNORE_STAGE_IN_PATH"}
        # What Lambda itself gives, and what a person gives to see more.
        assert variables_read(function) - {"RUST_LOG"} == given, function

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

    def test_eks_gets_the_same_rights_by_a_group_and_no_token(self):
        overlay = yaml_parse((self.FOLDER / "overlays/eks/kustomization.yaml").read_text())
        assert overlay["resources"] == ["../../base"]
        patches = {it["target"]["kind"]: yaml_parse(it["patch"]) for it in overlay["patches"]}
        assert {kind for kind, it in patches.items() if "$patch" in it} == {"Secret", "ServiceAccount", "Namespace"}
        assert all(it["$patch"] == "delete" for it in patches.values() if "$patch" in it)
        _, replaced = patches.pop("ClusterRoleBinding")
        group = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "dag-monitor"}
        assert (replaced["path"], replaced["value"]) == ("/subjects", [group])
        # The group that the guide has people put into an access entry.
        assert "--kubernetes-groups dag-monitor" in (self.FOLDER / "README.md").read_text()

    def test_everything_in_base_is_applied(self):
        listed = set(yaml_parse((self.FOLDER / "base/kustomization.yaml").read_text())["resources"])
        assert listed == {it.name for it in (self.FOLDER / "base").iterdir()} - {"kustomization.yaml"}


CONTEXT = {
    "Id": "arn:aws:states:eu-central-1:123456789012:execution:monitor:run-1",
    "Name": "run-1",
    "StartTime": "2026-11-23T19:00:00.000Z",
}


def evaluated(template, state_input, execution_input, now=None):
    """A field of a state, as Step Functions makes it: its expressions worked out, the rest as it is. `now` in ms."""
    if isinstance(template, dict):
        return {key: evaluated(it, state_input, execution_input, now) for key, it in template.items()}
    if isinstance(template, list):
        return [evaluated(it, state_input, execution_input, now) for it in template]
    if not (isinstance(template, str) and template.startswith("{%") and template.endswith("%}")):
        return template
    expression = jsonata.Jsonata.jsonata(template[2:-2].strip())
    # Step Functions' own, in place of `$eval`.
    expression.register_lambda("parse", json.loads)
    if now is not None:
        expression.register_lambda("millis", lambda: now)
    context = {"Execution": {**CONTEXT, "Input": execution_input}}
    return expression.evaluate(None, {"states": {"input": state_input, "context": context}})


def wait(longest: int, age: float, left: float) -> int:
    """How long the machine waits, so many seconds after its start and before the deadline."""
    start = datetime.fromisoformat(CONTEXT["StartTime"].replace("Z", "+00:00"))
    deadline = (start + timedelta(seconds=age + left)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    text = STATES["Wait"]["Seconds"].replace("${LongestWaitSecs}", str(longest))
    now = int((start.timestamp() + age) * 1000)
    return evaluated(text, {"status": "pending", "deadline": deadline}, {}, now)


def mark(execution_input) -> dict:
    """What DynamoDB is asked to do for a deployment that was started with this input and could not be judged."""
    failed = {"reason": "MonitorError", "error": "Internal", "cause": '{"errorMessage": "it broke"}'}
    explained = evaluated(STATES["Explain"]["Output"], failed, execution_input)
    text = json.dumps(STATES["Mark"]["Arguments"])
    for name, value in {"DeploymentsTable": "t", "DeployMonitorTimeoutSecs": 300, "RecordTtlDays": 90}.items():
        text = text.replace("${" + name + "}", str(value))
    return evaluated(json.loads(text), explained, execution_input)


def written_by(arguments: dict) -> set[str]:
    """The attributes that an UpdateItem sets."""
    update = arguments["UpdateExpression"]
    for alias, name in arguments["ExpressionAttributeNames"].items():
        update = update.replace(alias, name)
    return set(re.findall(r"(\w+) = ", update))


def variables_read(function: str) -> set[str]:
    """The names in the part of the configuration that is this function's, without those that Lambda gives."""
    source = rust("shared/aws/src/functions/config.rs").split("#[cfg(test)]")[0]
    kinds = {"CheckFunction": ["Config"], "RegisterFunction": ["Config", "RegisterConfig"]}[function]
    read = "".join(re.search(rf"^impl {kind} \{{\n(.*?)^\}}", source, re.M | re.S)[1] for kind in kinds)
    helpers = re.search(r"^impl Variables<'_> \{\n(.*?)^\}", source, re.M | re.S)[1]
    bodies = dict(re.findall(r"^    fn (\w+)\(.*?\{\n(.*?)^    \}", helpers, re.M | re.S))
    for name in re.findall(r"variables\.(\w+)\(", read):
        read += bodies[name]
    return {it for it in re.findall(r'"([A-Z][A-Z_]+)"', read)
            if not it.startswith("AWS_") and it not in ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")}


def camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda it: it[1].upper(), name)


def resources(statement: dict) -> list:
    it = statement["Resource"]
    return it if isinstance(it, list) else [it]


def statements(name: str) -> list[dict]:
    """The statements of a role or policy, actions as a list; `If` names the condition of one that has one."""
    properties = RESOURCES[name]["Properties"]
    documents = [it["PolicyDocument"] for it in properties.get("Policies", [])]
    if "PolicyDocument" in properties:
        documents.append(properties["PolicyDocument"])
    found = []
    for it in (it for document in documents for it in document["Statement"]):
        if "Fn::If" in it:
            condition, it, otherwise = it["Fn::If"]
            assert otherwise == {"Ref": "AWS::NoValue"}
            it = {**it, "If": condition}
        found.append({**it, "Action": [it["Action"]] if isinstance(it["Action"], str) else it["Action"]})
    return found


def rust(path: str) -> str:
    """The text of a source file, or of all in a folder."""
    it = ROOT / path
    files = sorted(it.rglob("*.rs")) if it.is_dir() else [it]
    assert files, f"{path} has no sources"
    return "\n".join(file.read_text() for file in files)
