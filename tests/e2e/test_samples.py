"""The sample events for `sam local invoke` are what the functions understand."""

import json
from pathlib import Path

import pytest

EVENTS = Path(__file__).parents[2] / "infra/events"


# In this order, and what each is answered: a cluster's life around that of a deployment to it. The sample cluster does
# not exist, so what asks it is told that.
SAMPLES = [
    ("openapi-get", 200), ("register-post", 201), ("register-get", 200), ("register-list", 200),
    ("register-put", 200), ("register-probe", 422), ("environment-put", 201), ("environment-get", 200),
    ("deployment-post", 202), ("deployment-get", 200), ("deployment-list", 200), ("register-delete", 409),
]
CHECKS = ("check-flux.json", "check-plain.json", "check-inline.json")


@pytest.fixture(scope="module")
def invoke(stack):
    def invoke(function: str, name: str) -> tuple[dict, bool]:
        return stack.invoke(function, (EVENTS / name).read_bytes())

    return invoke


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_names_the_cluster_that_it_does_not_know(invoke, name):
    answer, failed = invoke("CheckFunctionName", name)
    assert failed
    assert answer["errorType"] == "InvalidRequest"
    assert "prod-eu" in answer["errorMessage"] or "production" in answer["errorMessage"]


def test_the_samples_are_served(invoke, stack, operator):
    for name, status in SAMPLES:
        answer, failed = invoke("RegisterFunctionName", f"{name}.json")
        assert not failed, answer
        assert answer["statusCode"] == status, (name, answer)
    environment = "/apps/checkout/environments/production"
    assert stack.request("DELETE", environment, credentials=operator).status == 204
    answer, _ = invoke("RegisterFunctionName", "register-delete.json")
    assert answer["statusCode"] == 204, answer
    stack.execution("checkout-4712").stop()


def test_the_end_of_an_unknown_execution_is_no_error(invoke):
    answer, failed = invoke("CheckFunctionName", "execution-aborted.json")
    assert not failed, answer


def test_every_sample_is_used():
    assert {it.name for it in EVENTS.iterdir()} == {
        *(f"{name}.json" for name, _ in SAMPLES), *CHECKS, "execution-aborted.json",
        # The one of the daily probe: test_probe.py.
        "scheduled-probe.json",
    }
