"""One emulator, one stack and a few simulated clusters for all tests; deployments that run side by side."""

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from botocore.credentials import Credentials
from cluster import SimulatedCluster
from emulator import Emulator
from stack import Answer, Events, Execution, Stack

# The steps of pipelines, which the program is run by here.
sys.path.append(str(Path(__file__).parents[1] / "contract"))


@pytest.fixture(scope="session")
def directory(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("e2e")


@pytest.fixture(scope="session")
def emulator(directory):
    it = Emulator(directory)
    yield it
    it.stop()


@pytest.fixture(scope="session")
def stack(emulator, directory) -> Stack:
    return Stack(emulator, os.environ["E2E_TEMPLATE"], directory / "deploy.log")


@pytest.fixture(scope="session")
def events(stack) -> Events:
    return Events(stack)


@pytest.fixture(scope="session")
def operator(stack) -> Credentials:
    return stack.operator()


@pytest.fixture(scope="session")
def deployer(stack) -> Credentials:
    return stack.deployer()


@pytest.fixture(scope="session")
def clusters(directory):
    """So many that one of two can fail, that one can change its token and its CA, that one can be odd, and that one can
    leave questions about some releases without an answer."""
    started = []
    try:
        for name in ("eu", "us", "rotating", "odd", "faulty"):
            started.append((name, SimulatedCluster(os.environ["E2E_SIMULATED_CLUSTER"], directory / f"{name}.log")))
        yield dict(started)
    finally:
        for _, it in started:
            it.stop()


@pytest.fixture(scope="session")
def registered(stack, operator, clusters) -> dict[str, Answer]:
    """The clusters, registered over signed HTTP as `Sim eu` and so on; what was answered."""
    answers = {}
    for name in ("eu", "us", "rotating", "faulty"):
        answers[name] = stack.request("POST", "/clusters", cluster_body(f"Sim {name}", clusters[name]), operator)
        assert answers[name].status == 201, answers[name]
    return answers


def cluster_body(name: str, cluster: SimulatedCluster, **more) -> dict:
    """What registers a simulated cluster."""
    return {"name": name, "apiUrl": cluster.api_url, "serviceAccountToken": cluster.token, "caCert": cluster.ca_cert,
            **more}


def seen_on(cluster: SimulatedCluster, release: str, count: int = 1, timeout: float = 60):
    """Waits until a cluster has answered about a release, this many times."""
    deadline = time.monotonic() + timeout
    while len([it for it in cluster.requests(release) if it["status"] == 200]) < count:
        assert time.monotonic() < deadline, f"nobody asks about {release}"
        time.sleep(0.2)


def until_stored(stack: Stack, deployment_id: str, timeout: float = 60):
    """Waits for the first tick's item."""
    deadline = time.monotonic() + timeout
    while stack.item(deployment_id) is None:
        assert time.monotonic() < deadline, f"no item of {deployment_id}"
        time.sleep(0.2)


@dataclass
class Deployment:
    """A deployment that was started, and what was asked for."""

    id: str
    request: dict
    execution: Execution


@pytest.fixture(scope="session")
def start(stack, deployer):
    """Starts a deployment as a pipeline does."""
    states = stack.client("stepfunctions", deployer)

    def start(request: dict, name: str) -> Deployment:
        arn = states.start_execution(
            stateMachineArn=stack.outputs["StateMachineArn"], name=name, input=json.dumps(request))["executionArn"]
        return Deployment(request.get("deploymentId", name), request, Execution(stack, arn))

    return start
