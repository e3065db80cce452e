"""The program against the deployed stack: `dag-monitor register`, `run` and what lists and shows."""

import json
import os
import subprocess
from base64 import b64encode
from dataclasses import dataclass

import pytest
from cluster import GUIDE, SimulatedCluster
from emulator import REGION
from pipeline import KINDS, Step

PERSONAL = "a-token-of-a-person-who-registers"
NAME, ID = "Sim program", "sim-program"


@dataclass
class Program:
    """The built program, as somebody with one of the stack's policies runs it."""

    environment: dict[str, str]
    endpoint: str
    stack: object

    def __call__(self, *words: str, user=None, at_endpoint=True, code=0) -> subprocess.CompletedProcess:
        environment = dict(self.environment)
        if user:
            environment |= {"AWS_ACCESS_KEY_ID": user.access_key, "AWS_SECRET_ACCESS_KEY": user.secret_key}
        if at_endpoint:
            environment["DAG_MONITOR_ENDPOINT"] = self.endpoint
        done = subprocess.run(
            [os.environ["E2E_PROGRAM"], *words], env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=120)
        # What is printed is held against the tokens with everything else.
        self.stack.answers.append(done.stdout + done.stderr)
        assert done.returncode == code, (words, done)
        return done

    def json(self, *words: str, **more):
        return json.loads(self(*words, "-o", "json", **more).stdout)


@pytest.fixture(scope="module")
def cluster(directory):
    """A cluster with the guide's Secret, and a person who may read it."""
    it = SimulatedCluster(os.environ["E2E_SIMULATED_CLUSTER"], directory / "program-cluster.log")
    it.accept(it.token, PERSONAL)
    it.allow(*GUIDE, {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]})
    it.put_secret("dag-monitor", "dag-monitor-token", {"token": b64encode(it.token.encode()).decode()})
    yield it
    it.stop()


@pytest.fixture(scope="module")
def program(stack, emulator, directory, cluster) -> Program:
    kubeconfig = directory / "program-kubeconfig"
    kubeconfig.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "sim",
        "clusters": [{"name": "sim", "cluster": {
            "server": cluster.api_url, "certificate-authority-data": b64encode(cluster.ca_cert.encode()).decode()}}],
        "users": [{"name": "sim", "user": {"token": PERSONAL}}],
        "contexts": [{"name": "sim", "context": {"cluster": "sim", "user": "sim"}}],
    }))
    stack.tokens |= {cluster.token, PERSONAL}
    return Program({**emulator.environment, "KUBECONFIG": str(kubeconfig), "DAG_MONITOR_STACK": "e2e"},
                   stack.api_url, stack)


@pytest.fixture(scope="module")
def users(stack):
    return {it: stack.user_with(f"program-{it}", stack.outputs[f"{it.capitalize()}PolicyArn"])
            for it in ("registrar", "deployer", "reader")}


@pytest.fixture(scope="module", autouse=True)
def registered(program, users, stack, cluster):
    shown = program.json("register", NAME, "-n", "e2e", user=users["registrar"])
    assert (shown["id"], shown["apiUrl"], shown["lastProbe"]["ok"]) == (ID, cluster.api_url, True)
    # The account's token is kept, not the person's.
    assert json.loads(stack.secret(ID))["token"] == cluster.token
    return shown


def test_what_is_registered_is_shown_probed_and_replaced(program, users):
    assert "Last probe:  ok" in program("clusters", "show", NAME, user=users["reader"]).stdout
    listed = program.json("clusters", "list", user=users["reader"])["clusters"]
    assert [it["name"] for it in listed if it["id"] == ID] == [NAME]
    assert program.json("clusters", "probe", ID, user=users["registrar"])["lastProbe"]["ok"]
    told = program("register", NAME, user=users["registrar"], code=3)
    assert "--replace" in told.stderr
    assert program.json("register", NAME, "--replace", user=users["registrar"])["id"] == ID


def test_who_may_not_is_told_whose_policy_is_needed(program, users):
    told = program("register", "Other", user=users["reader"], code=3)
    assert "HTTP 403" in told.stderr and "RegistrarPolicyArn" in told.stderr
    told = program("run", "--target", f"{NAME}/e2e/none", user=users["reader"], code=3)
    assert "DeployerPolicyArn" in told.stderr


def test_a_stack_is_found_by_its_name_with_each_policy(program, users, stack):
    for user in users.values():
        found = stack.client("cloudformation", user).describe_stacks(StackName="e2e")["Stacks"][0]["Outputs"]
        assert stack.outputs["ApiUrl"] in [it["OutputValue"] for it in found]
        told = program("clusters", "list", "--stack", "other", user=user, at_endpoint=False, code=3)
        assert "AccessDenied" in told.stderr, "one may describe this stack and no other"
    told = program("clusters", "list", "--stack", "other", at_endpoint=False, code=3)
    assert f"there is no stack other in {REGION}" in told.stderr


def test_a_push_to_an_environment_is_followed_to_its_verdict(program, users, cluster):
    target = f"{NAME}/e2e/program-checkout"
    program("environments", "set", "program", "production", "--target", target, user=users["registrar"])
    assert target in program("environments", "show", "program", "production", user=users["reader"]).stdout
    pushed = cluster.play("flux/chart-upgrade", "program-checkout", push_in_ms=3000)

    done = program("run", "--app", "program", "--environment", "production", "--pushed-at", pushed, "--expect-chart",
                   "1.1.0", "--deployment-id", "program-1", "--timeout", "60s", "-o", "json", user=users["deployer"])
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert (answers[-1]["status"], answers[-1]["reason"]) == ("succeeded", "UpgradeSucceeded")
    assert [it["status"] for it in answers[:-1]] == ["pending"] * (len(answers) - 1)

    # What ended is told again, and a start that is repeated starts nothing.
    told = program("run", "--follow", "program-1", user=users["deployer"]).stdout
    assert "Deployed, after" in told
    history = ("deployments", "list", "--app", "program", "--environment", "production")
    listed = program.json(*history, user=users["reader"])["deployments"]
    assert [(it["deploymentId"], it["status"]) for it in listed] == [("program-1", "succeeded")]
    assert "✓ " + target in program("deployments", "show", "program-1", user=users["reader"]).stdout


def test_a_failure_and_a_timeout_have_their_codes(program, users, cluster):
    cluster.play("flux/upgrade-fails-no-retry", "program-bad", push_in_ms=3000)
    started = program("run", "--target", f"{NAME}/e2e/program-bad", "--timeout", "60s", "--detach",
                      user=users["deployer"])
    late = program("run", "--target", f"{NAME}/e2e/program-none", "--timeout", "10s", user=users["deployer"], code=2)
    assert "timed out" in late.stdout
    failed = program("run", "--follow", started.stdout.strip(), user=users["deployer"], code=1)
    assert "UpgradeFailed" in failed.stdout


@pytest.fixture(params=KINDS)
def step(request, program, users, tmp_path):
    """The step of a pipeline, with the program itself; what it ended with, and what was told."""
    user = users["deployer"]
    environment = {**program.environment, "DAG_MONITOR_ENDPOINT": program.endpoint, "HOME": str(tmp_path),
                   "AWS_ACCESS_KEY_ID": user.access_key, "AWS_SECRET_ACCESS_KEY": user.secret_key,
                   "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}
    del environment["PATH"]
    steps = Step(tmp_path, os.environ["E2E_PROGRAM"])

    def run(**inputs: str) -> tuple[int, str]:
        inputs = {name.replace("_", "-"): value for name, value in inputs.items()}
        done = steps.run(request.param, inputs, **environment)
        program.stack.answers.append(done.stdout + done.stderr)
        if request.param == "github" and done.returncode < 3:
            assert f"::{'notice' if done.returncode == 0 else 'error'} " in done.stdout, done
            assert "### dag-monitor" in (tmp_path / "summary").read_text()
        return done.returncode, done.stdout + done.stderr

    run.kind = request.param
    return run


def test_a_pipeline_is_told_by_the_stack(step, cluster):
    release = f"program-{step.kind}"
    pushed = cluster.play("flux/chart-upgrade", release, push_in_ms=1000, speed=3)
    inputs = {"via": "aws", "targets": f"{NAME}/e2e/{release}", "helm_type": "flux", "pushed_at": pushed}
    code, told = step(**inputs, stack="e2e", timeout="60s", expect_chart="1.1.0")
    assert code == 0, told
    code, told = step(**inputs, stack="e2e", timeout="10s", expect_chart="9.9.9")
    assert code == 2, told


def test_a_pipeline_asks_the_cluster_itself(step, cluster, program):
    # A person's kubeconfig: this one may read the HelmRelease, too.
    release = f"watched-{step.kind}"
    cluster.play("flux/upgrade-fails-no-retry", release, push_in_ms=1000, speed=3)
    code, told = step(release=release, namespace="e2e", push="true", timeout="60s")
    assert code == 1 and "UpgradeFailed" in told, told
    assert step(release=release, namespace="e2e", push="false", timeout="60s")[0] == 4


def test_what_is_in_use_is_not_deleted_and_the_rest_is(program, users, registered):
    program("environments", "set", "program", "last", "--target", f"{NAME}/e2e/last", user=users["registrar"])
    told = program("clusters", "delete", NAME, "--yes", user=users["registrar"], code=3)
    assert "Environments name the cluster" in told.stderr
    for environment in program.json("environments", "list", "program", user=users["registrar"])["environments"]:
        program("environments", "delete", "program", environment["environment"], "--yes", user=users["registrar"])
    program("clusters", "delete", NAME, "--yes", user=users["registrar"])
    assert "no such cluster" in program("clusters", "show", NAME, user=users["reader"], code=3).stderr
