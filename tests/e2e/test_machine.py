"""Every way through the state machine, and ticks that die, come twice, come late or come from another execution.

The machine's own retries take real seconds, a minute where the event can't be told, so all its ways run side by side.
"""

import json
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from conftest import Deployment, until_stored
from emulator import ACCOUNT
from stack import Execution

HERE = Path(__file__).parent

GAVE_UP = ["Explain", "Mark", "PublishMark", "GiveUp"]
# What the state machine calls a hiccup. The names of Lambda's own errors come from Lambda, so a stand-in says them.
HICCUPS = ["Lambda.TooManyRequestsException", "Lambda.ServiceException", "Lambda.AWSLambdaException",
           "Lambda.SdkClientException", "Lambda.ClientExecutionTimeoutException", "Transient"]
NO_BUS = {"Throw": {"Error": "EventBridge.InternalException", "Cause": "told to fail"}}
NO_TABLE = {"Throw": {"Error": "DynamoDB.InternalServerErrorException", "Cause": "told to fail"}}
ODD = {"Return": {"StatusCode": 200, "Payload": {"status": "odd"}}}
UNKNOWN = {"targets": [{"cluster": "nowhere", "namespace": "e2e", "release": "shop"}]}


@dataclass(frozen=True)
class Way:
    """A way through the machine: what is done, and what must become of it."""

    id: str
    # What the execution ends with; `None`: it succeeds.
    error: str | None
    reason: str
    # The states that it enters at last; before them only the rounds of a deployment that is pending.
    states: list[str]
    # The errors of its tasks.
    failures: list[str] = field(default_factory=list)
    # What stands in the message.
    said: str = ""
    # Whose check function it calls: the stack's, or a stand-in.
    machine: str = "own"
    # What Step Functions is told instead of what a service says, by state.
    told: dict[str, dict] = field(default_factory=dict)
    recording: str = "flux/chart-upgrade"
    more: dict = field(default_factory=dict)
    # Whether there is an item before the machine's first check.
    seen: bool = False


WAYS = [
    # The check fails.
    Way("of-an-unknown-schema", "MonitorError", "MonitorError", ["Check", *GAVE_UP], ["Internal"] * 6,
        ": Internal: the check can't be done"),
    Way("crashes", "MonitorError", "MonitorError", ["Check", *GAVE_UP], ["Runtime.ExitError"] * 6,
        ": Runtime.ExitError", machine="stand-in"),
    Way("hangs", "MonitorError", "MonitorError", ["Check", *GAVE_UP], ["Sandbox.Timedout"] * 6,
        ": Sandbox.Timedout: Task timed out after 1.00 seconds", machine="hasty"),
    Way("takes-too-long", "MonitorError", "MonitorError", ["Check", *GAVE_UP], ["States.Timeout"] * 6,
        ": States.Timeout", told={"Check": {"Throw": {"Error": "States.Timeout", "Cause": ""}}}),
    Way("puzzles", "MonitorError", "MonitorError", ["Check", "Judged?", "Puzzled", *GAVE_UP], [],
        ": UnknownStatus: ", told={"Check": ODD}),
    # It fails, and then it doesn't.
    Way("throttled", None, "UpgradeSucceeded", ["Check", "Judged?", "Publish", "End", "Succeeded"], HICCUPS,
        machine="stand-in"),
    Way("takes-too-long-once", None, "UpgradeSucceeded", ["Check", "Judged?", "Publish", "End", "Succeeded"],
        ["States.Timeout"], machine="stand-in"),
    # It doesn't fail: the cluster's time is bounded by the check's own.
    Way("never-answered", "DeploymentTimedOut", "Timeout", ["Check", "Judged?", "Publish", "End", "TimedOut"], [],
        "did not answer", more={"timeoutSecs": 10}),
    # The end can't be told by the machine; then the check function is asked to.
    Way("untold", None, "UpgradeSucceeded", ["Check", "Judged?", "Publish", "TellLater", "End", "Succeeded"],
        ["EventBridge.InternalException"] * 7, told={"Publish": NO_BUS}, more={"expect": {"chartVersion": "1.1.0"}}),
    Way("failure-untold", "DeploymentFailed", "UpgradeFailed",
        ["Check", "Judged?", "Publish", "TellLater", "End", "Failed"],
        ["EventBridge.InternalException"] * 7, told={"Publish": NO_BUS}, recording="flux/upgrade-fails-no-retry"),
    Way("mark-untold", "InvalidRequest", "InvalidRequest", ["Check", *GAVE_UP],
        ["InvalidRequest"] + ["EventBridge.InternalException"] * 7, "nowhere", told={"PublishMark": NO_BUS},
        more=UNKNOWN),
    # It can't even be marked.
    Way("unmarked", "InvalidRequest", "InvalidRequest", ["Check", "Explain", "Mark", "GiveUp"],
        ["InvalidRequest"] + ["DynamoDB.InternalServerErrorException"] * 7, "nowhere", told={"Mark": NO_TABLE},
        more=UNKNOWN),
    Way("unmarked-later", "MonitorError", "MonitorError",
        ["Check", "Judged?", "Puzzled", "Explain", "Mark", "GiveUp"], ["DynamoDB.InternalServerErrorException"] * 7,
        "UnknownStatus", told={"Check": ODD, "Mark": NO_TABLE}, seen=True),
]
BY_ID = {it.id: it for it in WAYS}
# How many of each that is scripted fails, and how; then it is the real function.
SCRIPT = {"crashes": ["exit"] * 99, "hangs": ["hang"] * 99, "throttled": HICCUPS, "takes-too-long-once": ["hang"]}


@pytest.fixture(scope="module")
def machines(stack) -> dict[str, str]:
    """The stack's state machine, and others of the same text whose check function isn't the stack's."""
    check = stack.function("CheckFunctionName")
    iam = stack.client("iam")
    role = iam.create_role(RoleName="stand-in", AssumeRolePolicyDocument=json.dumps({
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}],
    }))["Role"]["Arn"]
    iam.put_role_policy(RoleName="stand-in", PolicyName="may", PolicyDocument=json.dumps({
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": check["FunctionArn"]}],
    }))
    script = (HERE / "stand_in.py").read_bytes()
    variables = {"SCRIPT": json.dumps(SCRIPT), "REAL_FUNCTION": check["FunctionName"]}
    real = (Path(os.environ["E2E_TEMPLATE"]).parent / "CheckFunction/bootstrap").read_bytes()
    functions = {
        # Longer than the machine's task waits, and much shorter.
        "stand-in": stack.add_function("stand-in", script, role, 20, variables),
        "hasty": stack.add_function("hasty", script, role, 1, variables),
        # The same program with the same rights: what is killed is nobody else's check.
        "mortal": stack.add_function(
            "mortal", real, check["Role"], check["Timeout"], check["Environment"]["Variables"]),
    }
    return {"own": stack.outputs["StateMachineArn"],
            **{name: stack.add_machine(f"e2e-{name}", arn) for name, arn in functions.items()}}


@pytest.fixture(scope="module")
def begin(stack, machines):
    """Starts an execution of one of them, of which Step Functions may be told something."""
    states = stack.client("stepfunctions")

    def begin(request: dict, machine: str = "own", case: str = "") -> Deployment:
        name = f"run-of-{request['deploymentId']}"
        arn = states.start_execution(
            stateMachineArn=machines[machine] + (f"#{case}" if case else ""), name=name, input=json.dumps(request),
        )["executionArn"]
        assert arn == execution_of(machines[machine], name)
        return Deployment(request["deploymentId"], request, Execution(stack, arn))

    return begin


def execution_of(machine: str, name: str) -> str:
    """The ARN of an execution, also before it is started."""
    return f"{machine.replace(':stateMachine:', ':execution:')}:{name}"


def asked(release: str, cluster: str = "Sim eu", helm_type: str = "flux", **more) -> dict:
    """A deployment with one target, of the same name."""
    return {"deploymentId": release, "helmType": helm_type,
            "targets": [{"cluster": cluster, "namespace": "e2e", "release": release}], **more}


def news_of(execution: str, request: dict, **detail) -> dict:
    """What EventBridge tells of an execution's end."""
    change = json.loads((HERE.parents[1] / "infra/events/execution-aborted.json").read_text())
    change["detail"] |= {
        "executionArn": execution, "name": execution.rsplit(":", 1)[1], "input": json.dumps(request), **detail}
    return change


class Ticks:
    """The events that a running execution sends, sent by the test itself."""

    def __init__(self, stack, request: dict, execution: str, started: datetime):
        self._stack = stack
        self._event = {**request, "execution": {"arn": execution, "startedAt": text(started)}}

    def ask(self) -> tuple[dict, bool]:
        """What the check function says, and whether that is an error."""
        return self._stack.invoke("CheckFunctionName", self._event)

    def answer(self) -> dict:
        """What it answers. A hiccup is tried again, as the state machine would."""
        for _ in range(5):
            said, failed = self.ask()
            if not failed:
                return said
            assert said["errorType"] == "Transient", said
        raise AssertionError(said)


def own_ticks(stack, request: dict, ago: float = 0) -> Ticks:
    """Those of an execution that there never was, and that began a while ago."""
    execution = execution_of(stack.outputs["StateMachineArn"], f"run-of-{request['deploymentId']}")
    return Ticks(stack, request, execution, datetime.now(timezone.utc) - timedelta(seconds=ago))


def text(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parsed(time: str) -> datetime:
    return datetime.fromisoformat(time.replace("Z", "+00:00"))


@pytest.fixture(scope="module")
def ways(stack, events, registered, clusters, emulator, machines, begin) -> dict[str, Deployment]:
    """All of them at once."""
    emulator.tell_states(machines["own"].rsplit(":", 1)[1], {it.id: it.told for it in WAYS if it.told})
    started = {}
    for it in WAYS:
        cluster = "faulty" if it.id == "never-answered" else "eu"
        pushed = clusters[cluster].play(it.recording, it.id, speed=5)
        request = {**asked(it.id, f"Sim {cluster}", pushedAt=pushed), **it.more}
        execution = execution_of(machines[it.machine], f"run-of-{it.id}")
        if it.id == "never-answered":
            clusters[cluster].arm("silence", it.id, times=None)
        if it.id == "of-an-unknown-schema":
            stack.client("dynamodb").put_item(TableName=stack.outputs["DeploymentsTableName"], Item={
                "deploymentId": {"S": it.id}, "schema": {"N": "99"}, "status": {"S": "pending"},
                "executionArn": {"S": execution}, "rev": {"N": "7"}})
        if it.seen:
            first = Ticks(stack, request, execution, datetime.now(timezone.utc)).answer()
            assert first["status"] == "pending"
        started[it.id] = begin(request, it.machine, it.id if it.told else "")
    return started


@pytest.fixture(scope="module")
def late(stack, registered, clusters) -> tuple[Ticks, dict]:
    """A deployment that is left pending, as if its execution stood still; the cluster shows a success soon after."""
    pushed = clusters["eu"].play("flux/chart-upgrade", "late")
    ticks = own_ticks(stack, asked("late", pushedAt=pushed, timeoutSecs=10))
    return ticks, ticks.answer()


def test_everything_runs(ways, late):
    """Before anybody waits for anything."""
    assert late[1]["status"] == "pending"
    assert len(ways) == len(WAYS)


@pytest.mark.parametrize("cluster_shows", ["nothing-yet", "a-look-before"])
def test_one_stopped_while_it_asks_stays_closed(stack, events, registered, clusters, begin, cluster_shows):
    """The check that is under way finds the item closed, and leaves it so."""
    name, cluster = f"stopped-{cluster_shows}", clusters["faulty"]
    cluster.play("flux/chart-upgrade", name, push_in_ms=600_000)
    request = asked(name, "Sim faulty")
    if cluster_shows == "nothing-yet":
        cluster.arm("silence", name)
    deployment = begin(request)
    if cluster_shows == "a-look-before":
        until_stored(stack, name)
        cluster.arm("silence", name)
    until_silent(cluster, name)

    deployment.execution.stop()

    assert deployment.execution.wait()["status"] == "ABORTED"
    told = events.of(name)
    closed = stack.item(name)
    assert (closed["status"], closed["reason"]) == ("failed", "MonitorError")
    assert closed["executionArn"] == deployment.execution.arn
    # Longer than a check gives a cluster.
    time.sleep(6)
    assert stack.item(name) == closed
    assert {parsed(it["finishedAt"]) for it in told} == {parsed(closed["finishedAt"])}


def until_silent(cluster, release: str, count: int = 1, timeout: float = 60):
    """Waits until a cluster keeps so many who ask about a release without an answer."""
    deadline = time.monotonic() + timeout
    while len([it for it in cluster.requests(release) if it["status"] is None]) < count:
        assert time.monotonic() < deadline, f"nobody asks about {release}"
        time.sleep(0.05)


SEED = 4711


def test_a_process_that_is_killed_changes_no_verdict(stack, events, registered, clusters, emulator, begin):
    """Within a check before anything is stored, anywhere, around the push, within a check after it, and around the
    verdict: five times, as often as the state machine tries again, on both helmTypes at once."""
    moments, cluster = random.Random(SEED), clusters["faulty"]

    def kill() -> int:
        killed = emulator.processes("mortal")
        for it in killed:
            os.kill(it, signal.SIGKILL)
        return len(killed)

    for helm_type, release in (("flux", "killed-flux"), ("plain", "killed-plain")):
        cluster.arm("silence", release, helm_type)
    pushed = {
        "killed-flux": cluster.play("flux/chart-upgrade", "killed-flux", push_in_ms=14_000),
        "killed-plain": cluster.play("helm/helm3-upgrade", "killed-plain", push_in_ms=14_000),
    }
    push = max(parsed(it) for it in pushed.values())
    started = {it: begin(asked(it, "Sim faulty", it.removeprefix("killed-"), pushedAt=pushed[it]), "mortal")
               for it in pushed}

    def until_asking(count: int):
        """Both are certainly in the middle of a check, and have 4 s for it."""
        for it in started:
            until_silent(cluster, it, count)

    until_asking(1)
    assert kill() == 2
    for it in started:
        assert stack.item(it) is None
    for it in started:
        until_stored(stack, it)
    time.sleep(moments.uniform(0, 4))
    assert kill()
    time.sleep(max(0, (push - datetime.now(timezone.utc)).total_seconds() + moments.uniform(-0.5, 0.5)))
    kill()
    for helm_type, release in (("flux", "killed-flux"), ("plain", "killed-plain")):
        cluster.arm("silence", release, helm_type)
    until_asking(2)
    assert kill() == 2
    deadline = time.monotonic() + 90
    while all(stack.item(it)["status"] == "pending" for it in started):
        assert time.monotonic() < deadline, "no verdict"
        time.sleep(0.02)
    kill()

    for it, reason in (("killed-flux", "UpgradeSucceeded"), ("killed-plain", "Deployed")):
        execution = started[it].execution
        ended = execution.wait()
        assert ended["status"] == "SUCCEEDED", (SEED, ended)
        # In a check, or already as it starts. Two hit a check for certain.
        failures = execution.failures()
        assert set(failures) <= {"Runtime.ExitError", "Runtime.Unknown"}, failures
        assert 2 <= len(failures) <= 5
        output, item = json.loads(ended["output"]), stack.item(it)
        assert (item["status"], item["reason"]) == ("succeeded", reason), item["message"]
        assert item["executionArn"] == execution.arn
        assert parsed(item["startedAt"]) == ended["startDate"]
        assert parsed(item["deadline"]) == ended["startDate"] + timedelta(seconds=300)
        assert all(told == output for told in events.of(it))
        # What the execution's next tick would say; and nothing is written for it.
        again = Ticks(stack, started[it].request, execution.arn, ended["startDate"])
        assert again.answer() == output
        assert stack.item(it) == item


def test_ticks_at_once_and_later_are_one(stack, registered, clusters):
    """Three of each, round by round from the first look to the verdict and beyond it, on both helmTypes."""
    recordings = {"twins-flux": "flux/chart-upgrade", "twins-plain": "helm/helm3-upgrade"}
    pushed = {name: clusters["us"].play(it, name, push_in_ms=5000) for name, it in recordings.items()}
    ticks = {name: own_ticks(stack, asked(name, "Sim us", name.removeprefix("twins-"), pushedAt=at))
             for name, at in pushed.items()}
    ended, since, deadline = {}, {}, time.monotonic() + 90
    with ThreadPoolExecutor(6) as pool:
        while len(ended) < len(ticks):
            assert time.monotonic() < deadline, "no verdict"
            rounds = {name: [pool.submit(it.ask) for _ in range(3)] for name, it in ticks.items()}
            for name, asking in rounds.items():
                said = [it.result() for it in asking]
                # Who lost twice is to come again.
                assert all(it["errorType"] == "Transient" for it, failed in said if failed), said
                answers = [it for it, failed in said if not failed]
                assert answers
                # The item was made once, and its times are those of the execution.
                since.setdefault(name, (answers[0]["startedAt"], answers[0]["deadline"]))
                assert {(it["startedAt"], it["deadline"]) for it in answers} == {since[name]}
                verdicts = [it for it in answers if it["status"] != "pending"]
                if name in ended:
                    # From a verdict on there is no other answer.
                    assert verdicts == answers
                for it in verdicts:
                    assert it == ended.setdefault(name, it)
            time.sleep(1)
        items = {name: stack.item(name) for name in ticks}
        for name, it in ticks.items():
            later = [pool.submit(it.answer) for _ in range(3)]
            assert [it.result() for it in later] == [ended[name]] * 3
            assert (ended[name]["status"], ended[name]["reason"]) == (
                "succeeded", {"twins-flux": "UpgradeSucceeded", "twins-plain": "Deployed"}[name])
            assert stack.item(name) == items[name]


@pytest.mark.parametrize("looked_before", [False, True])
def test_a_tick_that_was_overtaken_moves_nothing_back(stack, registered, clusters, looked_before):
    """It saw what was before the push, and comes to its end after another has stored the verdict."""
    name, cluster = f"overtaken-{looked_before}".lower(), clusters["faulty"]
    pushed = cluster.play("flux/chart-upgrade", name, push_in_ms=4000, speed=20)
    ticks = own_ticks(stack, asked(name, "Sim faulty", pushedAt=pushed, expect={"chartVersion": "1.1.0"}))
    if looked_before:
        assert ticks.answer()["status"] == "pending"
    time.sleep(max(0, (parsed(pushed) - datetime.now(timezone.utc)).total_seconds() - 0.7))
    cluster.arm({"delay": {"ms": 3500}}, name)
    with ThreadPoolExecutor(1) as pool:
        overtaken = pool.submit(ticks.answer)
        time.sleep(1.5)
        verdict = ticks.answer()
        item = stack.item(name)
        assert (verdict["status"], verdict["reason"]) == ("succeeded", "UpgradeSucceeded")
        # What it would have written it finds decided; what saw nothing new has nothing to write, and says so.
        assert overtaken.result() == verdict or (looked_before and overtaken.result()["status"] == "pending")
    assert stack.item(name) == item
    assert ticks.answer() == verdict


def test_a_first_tick_long_after_the_deadline_asks_nobody(stack, registered, clusters):
    """A redrive of an execution whose item is gone: what the cluster shows by now may be another push's."""
    pushed = clusters["eu"].play("flux/chart-upgrade", "redriven", push_in_ms=0)
    request = asked("redriven", pushedAt=pushed, timeoutSecs=10)
    answer = own_ticks(stack, request, ago=100).answer()
    assert (answer["status"], answer["reason"]) == ("failed", "Timeout")
    assert clusters["eu"].requests("redriven") == []
    # Sooner it is asked.
    near = asked("redriven-soon", allowUnchanged=True, timeoutSecs=10)
    clusters["eu"].play("flux/chart-upgrade", "redriven-soon", push_in_ms=0)
    own_ticks(stack, near, ago=40).answer()
    assert len(clusters["eu"].requests("redriven-soon")) == 1


@pytest.mark.parametrize("other", ["the-same", "another"])
def test_of_two_executions_with_one_id_the_first_has_it(stack, registered, clusters, other):
    """Nobody else touches the first's item here, so it must stay as it is to the letter."""
    name = f"reused-for-{other}"
    clusters["us"].play("flux/chart-upgrade", name, push_in_ms=600_000)
    request = asked(name, "Sim us")
    first = own_ticks(stack, request)
    assert first.answer()["status"] == "pending"
    item, before = stack.item(name), len(clusters["us"].requests(""))

    execution = execution_of(stack.outputs["StateMachineArn"], "another-run")
    if other == "another":
        request = {**request, "timeoutSecs": 20, "targets": [{"cluster": "Sim us", "release": "other"}]}
    second = Ticks(stack, request, execution, datetime.now(timezone.utc))
    for _ in range(2):
        said, failed = second.ask()
        assert failed and said["errorType"] == "InvalidRequest", said
        assert "DeploymentIdConflict" in said["errorMessage"]
        assert item["executionArn"] in said["errorMessage"]
    assert stack.item(name) == item
    assert len(clusters["us"].requests("")) == before
    assert first.answer()["status"] == "pending"


def test_an_execution_with_anothers_id_and_another_request_ends_at_once(
        stack, events, registered, clusters, begin, start):
    """And the first gets its own verdict."""
    pushed = clusters["us"].play("flux/chart-upgrade", "reused", push_in_ms=6000)
    first = begin(asked("reused", "Sim us", pushedAt=pushed))
    until_stored(stack, "reused")
    second = start({**asked("reused", "Sim us"), "helmType": "plain"}, "second-of-reused")

    ended = second.execution.wait()
    assert (ended["status"], ended["error"]) == ("FAILED", "InvalidRequest")
    assert "DeploymentIdConflict" in ended["cause"] and first.execution.arn in ended["cause"]
    assert second.execution.entered() == ["Check", "Explain", "Mark", "GiveUp"]
    assert second.execution.failures() == ["InvalidRequest", "DynamoDB.ConditionalCheckFailedException"]
    ended = first.execution.wait()
    assert ended["status"] == "SUCCEEDED"
    item = stack.item("reused")
    assert (item["executionArn"], item["reason"]) == (first.execution.arn, "UpgradeSucceeded")
    assert all(it == json.loads(ended["output"]) for it in events.of("reused"))


def test_what_ran_into_its_own_time_limit_is_closed(stack, events, registered, clusters):
    """Step Functions tells it like a stop; the emulator's machines know no such limit, so the test sends the event."""
    clusters["us"].play("flux/chart-upgrade", "out-of-time", push_in_ms=600_000)
    request = asked("out-of-time", "Sim us")
    ticks = own_ticks(stack, request)
    assert ticks.answer()["status"] == "pending"
    item = stack.item("out-of-time")
    change = news_of(item["executionArn"], request, status="TIMED_OUT", cause=None)
    for _ in range(2):
        answer, failed = stack.invoke("CheckFunctionName", change)
        assert not failed, answer
        assert (answer["status"], answer["reason"]) == ("failed", "MonitorError")
        assert "its own time limit" in answer["message"]
        # A tick that was under way is late.
        assert ticks.answer() == answer
    assert all(it == answer for it in events.of("out-of-time"))


def seen_by_all(stack, operator, deployment_id: str) -> dict:
    """What GET shows."""
    shown = stack.request("GET", f"/deployments/{deployment_id}", credentials=operator)
    assert shown.status == 200, shown
    return shown.json


def with_times(answer: dict) -> dict:
    """An answer, its times compared as such: 1.5 s may be written in several ways."""
    times = ("startedAt", "deadline", "checkedAt", "finishedAt")
    return {key: parsed(it) if key in times and it else it for key, it in answer.items()}


@pytest.mark.parametrize("name", BY_ID)
def test_way(ways, stack, events, operator, name):
    way, execution = BY_ID[name], ways[name].execution

    ended = execution.wait()

    states, tail = execution.entered(), len(way.states)
    assert states[-tail:] == way.states
    assert states[:-tail] == ["Check", "Judged?", "Wait"] * (len(states[:-tail]) // 3)
    assert execution.failures() == way.failures
    if way.error:
        assert (ended["status"], ended["error"]) == ("FAILED", way.error)
    else:
        assert ended["status"] == "SUCCEEDED"
    if way.states[-2:] == ["Mark", "GiveUp"]:
        # Nobody is left in the machine to do it.
        until_closed(stack, name)
    item = stack.item(name)
    assert item["status"] == ("failed" if way.error else "succeeded")
    assert (item["reason"], item["executionArn"]) == (way.reason, execution.arn)
    assert way.said in item["message"], item["message"]
    assert item["finishedAt"]
    if way.error and way.states[-2] != "Mark":
        assert ended["cause"] == item["message"]

    # The end is told as it is stored, by whomever.
    told = events.of(name)
    assert {(it["status"], it["reason"], it["message"]) for it in told} == {
        (item["status"], item["reason"], item["message"])}
    if name != "of-an-unknown-schema":
        shown = seen_by_all(stack, operator, name)
        assert all(with_times(it) == with_times(shown) for it in told)
    if not way.error:
        assert with_times(json.loads(ended["output"])) == with_times(seen_by_all(stack, operator, name))


def until_closed(stack, deployment_id: str, timeout: float = 60):
    """Waits for what is done from outside the machine."""
    deadline = time.monotonic() + timeout
    while (stack.item(deployment_id) or {"status": "pending"})["status"] == "pending":
        assert time.monotonic() < deadline, f"{deployment_id} stays pending"
        time.sleep(0.2)


def test_what_this_version_can_not_read_it_leaves_to_people(ways, stack):
    """The machine marked it, and the news of its end are kept for whoever reads that schema. The emulator's EventBridge
    calls a function once and forgets it, so the test calls as EventBridge does, asynchronously."""
    request, execution = ways["of-an-unknown-schema"].request, ways["of-an-unknown-schema"].execution
    execution.wait()
    item = stack.item("of-an-unknown-schema")
    assert item["schema"] == 99
    change = news_of(execution.arn, request, status="FAILED", error="MonitorError", cause=item["message"])
    stack.client("lambda").invoke(
        FunctionName=stack.outputs["CheckFunctionName"], InvocationType="Event", Payload=json.dumps(change))

    queues, url, deadline = stack.client("sqs"), stack.outputs["UnclosedQueueUrl"], time.monotonic() + 90
    kept = []
    while not kept:
        assert time.monotonic() < deadline, "nothing is kept"
        kept = queues.receive_message(QueueUrl=url, WaitTimeSeconds=2).get("Messages", [])
    queues.delete_message(QueueUrl=url, ReceiptHandle=kept[0]["ReceiptHandle"])
    assert json.loads(kept[0]["Body"])["requestPayload"] == change
    assert stack.item("of-an-unknown-schema") == item


def test_a_tick_long_after_the_deadline_asks_nobody(late, stack, clusters):
    """A redrive: by now the cluster shows a success, and it may be another push's."""
    ticks, pending = late
    wanted = parsed(pending["deadline"]) + timedelta(seconds=61)
    time.sleep(max(0, (wanted - datetime.now(timezone.utc)).total_seconds()))
    before = len(clusters["eu"].requests("late"))

    answer = ticks.answer()

    assert (answer["status"], answer["reason"], answer["lastReason"]) == ("failed", "Timeout", pending["reason"])
    assert (answer["startedAt"], answer["deadline"]) == (pending["startedAt"], pending["deadline"])
    item = stack.item("late")
    assert ticks.answer() == answer
    assert stack.item("late") == item
    assert len(clusters["eu"].requests("late")) == before >= 1


def test_nothing_of_this_stays_pending(ways, stack):
    for it in ways.values():
        it.execution.wait()
        until_closed(stack, it.id)
