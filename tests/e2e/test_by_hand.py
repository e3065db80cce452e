"""`make local-aws`: what somebody finds who uses the stack by hand."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import boto3
import pytest
from samcli.yamlhelper import yaml_parse
from stack import Execution

SCRIPT = Path(__file__).with_name("by_hand.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("by-hand")


@pytest.fixture(scope="module")
def process(folder):
    it = subprocess.Popen([sys.executable, SCRIPT], env={**os.environ, "E2E_BY_HAND": str(folder)},
                          stdout=subprocess.PIPE, text=True)
    told = []
    for line in it.stdout:
        told.append(line)
        if line.startswith("Ctrl-C"):
            break
    assert it.poll() is None and told, (folder / "deploy.log").read_text()
    yield it
    it.kill()
    it.wait()


@pytest.fixture(scope="module")
def variables(process, folder) -> dict[str, str]:
    """What the file sets in a shell that reads it."""
    assert (folder / "env").stat().st_mode & 0o777 == 0o600
    done = subprocess.run(["sh", "-c", f". {folder}/env && env -0"], env={}, capture_output=True, text=True, check=True)
    return dict(it.split("=", 1) for it in done.stdout.split("\0") if it)


class Here:
    """The part of a stack that an execution needs."""

    def __init__(self, variables):
        self._variables = variables

    def client(self, service: str):
        return boto3.client(
            service, endpoint_url=self._variables["AWS_ENDPOINT_URL"], region_name=self._variables["AWS_REGION"],
            aws_access_key_id=self._variables["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self._variables["AWS_SECRET_ACCESS_KEY"])


def test_a_push_is_judged(variables):
    play = {"scenario": "flux/chart-upgrade", "namespace": "e2e", "name": "checkout", "pushInMs": 3000, "speed": 3}
    request = urllib.request.Request(variables["CLUSTER_CONTROL"] + "/play", method="POST", data=json.dumps(play).encode(),
                                     headers={"content-type": "application/json"})
    urllib.request.urlopen(request, timeout=10).close()
    here = Here(variables)
    arn = here.client("stepfunctions").start_execution(
        stateMachineArn=variables["STATE_MACHINE_ARN"], name="first",
        input=json.dumps({"app": "checkout", "environment": "production"}))["executionArn"]
    seen = Execution(here, arn).wait()
    assert seen["status"] == "SUCCEEDED", seen
    assert json.loads(seen["output"])["reason"] == "UpgradeSucceeded"


def test_sam_is_told_of_the_emulator(variables, folder):
    template = yaml_parse(Path(os.environ["E2E_TEMPLATE"]).with_name("by-hand.yaml").read_text())
    named = template["Globals"]["Function"]["Environment"]["Variables"]
    assert named["AWS_ENDPOINT_URL"] == variables["AWS_ENDPOINT_URL"]
    # SAM gives a function no variable that the template does not name.
    given = json.loads((folder / "env.json").read_text())
    for function, its in given.items():
        own = template["Resources"][function]["Properties"].get("Environment", {}).get("Variables", {})
        assert set(its) <= {*named, *own}


def test_the_kubeconfig_is_of_the_cluster(variables):
    config = json.loads(Path(variables["KUBECONFIG"]).read_text())
    assert Path(variables["KUBECONFIG"]).stat().st_mode & 0o777 == 0o600
    assert config["clusters"][0]["cluster"]["server"].startswith("https://127.0.0.1:")


def test_an_interrupt_leaves_nothing(process, variables):
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    with pytest.raises(OSError):
        urllib.request.urlopen(variables["AWS_ENDPOINT_URL"], timeout=5)
