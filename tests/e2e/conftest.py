"""One emulator, one stack and three simulated clusters for all tests; deployments that run side by side."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from botocore.credentials import Credentials
from cluster import SimulatedCluster
from emulator import Emulator
from stack import Answer, Events, Execution, Stack


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
    """Three, so that one of two can fail and one can change its token."""
    started = []
    try:
        for name in ("eu", "us", "rotating"):
            started.append((name, SimulatedCluster(os.environ["E2E_SIMULATED_CLUSTER"], directory / f"{name}.log")))
        yield dict(started)
    finally:
        for _, it in started:
            it.stop()


@pytest.fixture(scope="session")
def registered(stack, operator, clusters) -> dict[str, Answer]:
    """The clusters, registered over signed HTTP as `Sim eu` and so on; what was answered."""
    answers = {}
    for name, it in clusters.items():
        answers[name] = stack.request("POST", "/clusters", {
            "name": f"Sim {name}", "apiUrl": it.api_url, "serviceAccountToken": it.token, "caCert": it.ca_cert,
        }, operator)
        assert answers[name].status == 201, answers[name]
    return answers


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
