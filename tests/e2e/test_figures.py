"""What the check function writes into its log: the figures that alarms read, and what the guide's queries ask for."""

import json
import re
from pathlib import Path

import pytest
from samcli.yamlhelper import yaml_parse

ROOT = Path(__file__).parents[2]
# The lines to which the handlers' own tests hold them.
KNOWN = [json.loads(it.read_text()) for it in (ROOT / "tests/fixtures/metrics").glob("*.json")]
ALARMS = {
    name: it["Properties"]
    for name, it in yaml_parse((ROOT / "infra/template.yaml").read_text())["Resources"].items()
    if it["Type"] == "AWS::CloudWatch::Alarm" and it["Properties"]["Namespace"] == "dag-monitor"
}
QUERIES = [query for name in ("README.md", "infra/README.md")
           for query in re.findall(r"```logs\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)]
# Words of the query language, and what a query names itself.
WORDS = {"filter", "fields", "sort", "stats", "by", "as", "asc", "desc", "and", "not", "ispresent", "count", "sum", "avg",
         "pct"}


@pytest.fixture(scope="module")
def lines(stack, start, clusters, registered, operator):
    """Every line with figures, once a release is deployed, one was not in time, and a deployment was stopped."""
    clusters["eu"].play("flux/chart-upgrade", "figures", push_in_ms=3_600_000)

    def deploy(name: str, cluster: str, release: str, **more):
        target = {"cluster": cluster, "namespace": "e2e", "release": release}
        return start({"helmType": "flux", "targets": [target], "timeoutSecs": 10, **more}, name).execution

    good = deploy("figures-good", "Sim eu", "figures", allowUnchanged=True)
    stopped = deploy("figures-stopped", "Sim eu", "figures-never", timeoutSecs=300)
    with clusters["faulty"].fault("refuse"):
        assert deploy("figures-late", "Sim faulty", "figures").wait()["status"] == "FAILED"
    assert good.wait()["status"] == "SUCCEEDED"
    stopped.stop()
    # The news of it closes the deployment.
    answer = {}
    while answer.get("status") != "failed":
        answer = stack.request("GET", "/deployments/figures-stopped", credentials=operator).json
    return [json.loads(it) for it in stack.logged("CheckFunctionName") if '"CloudWatchMetrics"' in it]


def shape(line: dict) -> tuple:
    """Which metrics a line has, and by which dimensions."""
    return tuple(sorted(json.dumps(it, sort_keys=True) for it in line["_aws"]["CloudWatchMetrics"]))


def test_a_line_is_one_of_those_that_are_known(lines):
    shapes = {shape(it) for it in KNOWN}
    for line in lines:
        assert shape(line) in shapes, line
        for directive in line["_aws"]["CloudWatchMetrics"]:
            assert all(isinstance(line[it["Name"]], int | float) for it in directive["Metrics"])
            assert all(isinstance(line[name], str) for names in directive["Dimensions"] for name in names)
        assert line["Stack"] == "e2e" and line["deployment_id"]


def test_the_ends_are_told_once(lines):
    ends = {it["deployment_id"]: (it["Status"], it["Reason"]) for it in lines if it.get("Verdicts")}
    assert ends["figures-good"][0] == "succeeded"
    assert ends["figures-late"] == ("failed", "Timeout")
    assert ends["figures-stopped"] == ("failed", "MonitorError")
    assert any(it.get("ClusterErrors") and it["Cluster"] == "sim-faulty" for it in lines)


def test_what_an_alarm_reads_of_the_check_was_written(lines):
    checks = {metric["Name"] for it in KNOWN for directive in it["_aws"]["CloudWatchMetrics"] for metric in directive["Metrics"]
              if "deployment_id" in it}
    read = [it for it in ALARMS.values() if it["MetricName"] in checks]
    assert read
    for alarm in read:
        wanted = {it["Name"]: it["Value"] for it in alarm["Dimensions"]}
        wanted["Stack"] = "e2e"
        assert any(
            alarm["MetricName"] in {it["Name"] for it in directive["Metrics"]}
            and set(wanted) in map(set, directive["Dimensions"])
            and all(line[name] == value for name, value in wanted.items())
            for line in lines for directive in line["_aws"]["CloudWatchMetrics"]
        ), alarm


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_of_the_guide_asks_for_what_is_there(query, lines):
    plain = re.sub(r'"[^"]*"', "", query)
    own = set(re.findall(r"\bas (\w+)", plain))
    fields = {it for it in re.findall(r"@?[A-Za-z_][\w.]*", plain) if it not in WORDS | own}
    assert fields
    for field in fields - {"@timestamp", "clusters.1"}:
        name = field.split(".")[0]
        assert any(name in line for line in lines), field
    # `clusters.1` is there where a deployment has two.
    assert all(isinstance(line["clusters"], list) for line in lines)
