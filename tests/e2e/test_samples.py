"""The sample events for `sam local invoke` are what the functions understand."""

import json
from pathlib import Path

import pytest

EVENTS = Path(__file__).parents[2] / "infra/events"


@pytest.fixture(scope="module")
def invoke(stack):
    def invoke(function: str, name: str) -> tuple[dict, bool]:
        answer = stack.client("lambda").invoke(
            FunctionName=stack.outputs[function], Payload=(EVENTS / name).read_bytes())
        return json.loads(answer["Payload"].read()), "FunctionError" in answer

    return invoke


def test_the_life_of_a_cluster(invoke):
    """In this order: register, show, list, change, delete."""
    for name, status in [("post", 201), ("get", 200), ("list", 200), ("put", 200), ("delete", 204)]:
        answer, failed = invoke("RegisterFunctionName", f"register-{name}.json")
        assert not failed, answer
        assert answer["statusCode"] == status, answer


@pytest.mark.parametrize("name", ["check-flux.json", "check-plain.json", "check-inline.json"])
def test_a_check_names_the_cluster_that_it_does_not_know(invoke, name):
    answer, failed = invoke("CheckFunctionName", name)
    assert failed
    assert answer["errorType"] == "InvalidRequest"
    assert "prod-eu" in answer["errorMessage"]


def test_the_end_of_an_unknown_execution_is_no_error(invoke):
    answer, failed = invoke("CheckFunctionName", "execution-aborted.json")
    assert not failed, answer


def test_every_sample_is_used_here():
    assert {it.name for it in EVENTS.iterdir()} == {
        *(f"register-{it}.json" for it in ("post", "get", "list", "put", "delete")),
        "check-flux.json", "check-plain.json", "check-inline.json", "execution-aborted.json",
    }
