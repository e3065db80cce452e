"""The steps for pipelines: what they hand over to the program, and what their examples hand over to them."""

import hashlib
import os
import re
import tarfile

import pytest
import yaml
from pipeline import ACTION, CI, GITHUB, INSTALL, JUDGE, KINDS, TEMPLATE, Step, variable

AFTER = {"pushed-at": "2026-11-23T19:15:45Z"}
OPTION_AFTER = ["--pushed-at", "2026-11-23T19:15:45Z"]
WATCH, RUN = ["watch"], ["run", "--stack", "dag-monitor"]
# What is given to the step, and what the program gets.
CASES = [
    ({"release": "checkout", **AFTER}, [*WATCH, *OPTION_AFTER, "checkout"]),
    ({"release": "x", "namespace": "shop", "context": "a b", **AFTER},
     [*WATCH, "--namespace", "shop", "--context", "a b", *OPTION_AFTER, "x"]),
    ({"targets": "eu/shop/x\nus/shop/x\n", "helm-type": "plain", **AFTER},
     [*WATCH, "--target", "eu/shop/x", "--target", "us/shop/x", "--helm-type", "plain", *OPTION_AFTER]),
    ({"release": "x", "allow-unchanged": "true"}, [*WATCH, "--allow-unchanged", "x"]),
    ({"via": "aws", "app": "checkout", "environment": "production", **AFTER},
     [*RUN, "--app", "checkout", "--environment", "production", *OPTION_AFTER]),
    ({"via": "aws", "stack": "other", "deployment-id": "c-1", "targets": "eu/shop/x", "helm-type": "flux", **AFTER},
     ["run", "--stack", "other", "--deployment-id", "c-1", "--target", "eu/shop/x", "--helm-type", "flux",
      *OPTION_AFTER]),
    # Text stays text: no word of it is split, and nothing in it is run.
    ({"release": "x", "expect-chart": "1.4.0", "expect-app": "2 b", "expect-values": "/a=1 *\r\n/b=\"$(id)\"`id`\n",
      "timeout": "10m", "fail-on": "first", "fail-fast": "true", **AFTER},
     [*WATCH, "--expect-chart", "1.4.0", "--expect-app", "2 b", "--expect-value", "/a=1 *",
      "--expect-value", '/b="$(id)"`id`', "--timeout", "10m", "--fail-on", "first", *OPTION_AFTER, "--fail-fast", "x"]),
]


@pytest.fixture
def step(tmp_path):
    return Step(tmp_path)


def arguments(kind: str, wanted: list[str]) -> list[str]:
    return [wanted[0], "--output", "github", *wanted[1:]] if kind == "github" else wanted


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("inputs", "wanted"), CASES)
def test_an_input_is_an_option(inputs, wanted, kind, step):
    done = step.run(kind, inputs)
    assert done.returncode == 0, done.stderr
    assert step.seen == arguments(kind, wanted)


@pytest.mark.parametrize(("kind", "shell"), [("github", ["bash", "-euo", "pipefail", "-c"]), ("gitlab", ["sh", "-euc"])])
def test_the_push_is_run_by_the_program(kind, shell, step):
    push = "git push --force; echo 'a b' $NOT_OURS"
    assert step.run(kind, {"release": "x", "push": push}).returncode == 0
    assert step.seen == arguments(kind, ["watch", "x", "--", *shell, push])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("inputs", "words"), [
    ({"release": "x"}, "before the first look"),
    ({"via": "aws", "app": "a", "environment": "b", "expect-chart": "1"}, "before the first look"),
    ({"release": "x", "push": "git push", **AFTER}, "not both"),
    ({"via": "kubectl", **AFTER}, "cluster"),
])
def test_without_a_time_before_the_push_nothing_begins(inputs, words, kind, step):
    done = step.run(kind, inputs)
    assert (done.returncode, step.seen) == (3, None)
    assert words in done.stdout + done.stderr
    assert kind == "gitlab" or step.outcome == "not-looked"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("code", "outcome"), [
    (0, "succeeded"), (1, "failed"), (2, "timed-out"), (3, "not-looked"), (4, "push-failed"), (130, "interrupted"),
    (101, "not-looked"),
])
def test_the_step_ends_as_the_program_does(code, outcome, kind, step):
    assert step.run(kind, {"release": "x", **AFTER}, EXIT=str(code)).returncode == code
    assert kind == "gitlab" or step.outcome == outcome
    assert outcome in ACTION["outputs"]["outcome"]["description"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_released_program_is_held_against_its_sum(kind, step, tmp_path):
    # As `make dist` makes it.
    machine = os.uname().machine
    folder, archive = tmp_path / "releases/v1.2.3", f"dag-monitor-{machine}-unknown-linux-gnu.tar.gz"
    folder.mkdir(parents=True)
    with tarfile.open(folder / archive, "w:gz") as it:
        it.add(step.program, "dag-monitor")
    step.program.unlink()
    digest = hashlib.sha256((folder / archive).read_bytes()).hexdigest()
    inputs = {"release": "x", "version": "1.2.3", "download": f"file://{tmp_path}/releases", **AFTER}
    for text, pinned, works in (
        (digest, "", True), ("", digest, True), ("0" * 64, "", False), (digest, "0" * 64, False), ("", "", False),
    ):
        (folder / f"{archive}.sha256").write_text(f"{text}  {archive}\n")
        done = step.run(kind, inputs | {"sha256": pinned})
        assert (done.returncode == 0, step.seen is not None) == (works, works), (text, pinned, done.stderr)


def test_the_actions_own_releases_are_the_default(step, tmp_path, monkeypatch):
    monkeypatch.setitem(GITHUB, "server_url", f"file://{tmp_path}")
    folder = tmp_path / "shop/dag-monitor/releases/download/v1.2.3"
    folder.mkdir(parents=True)
    archive = folder / f"dag-monitor-{os.uname().machine}-unknown-linux-gnu.tar.gz"
    with tarfile.open(archive, "w:gz") as it:
        it.add(step.program, "dag-monitor")
    step.program.unlink()
    inputs = {"release": "x", "version": "1.2.3", "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(), **AFTER}
    done = step.run("github", inputs)
    assert (done.returncode, step.seen is not None) == (0, True), done.stderr


def test_the_makefile_makes_what_is_downloaded():
    makefile = (CI.parents[1] / "Makefile").read_text()
    name = re.search(r"^ARCHIVE = (.*)$", makefile, re.MULTILINE)[1].replace("$$", "$")
    assert f"archive={name}\n" in INSTALL["run"]
    assert f"archive={name}\n" in TEMPLATE["script"][0]


def test_every_input_is_used_and_described():
    used = {name for step in (INSTALL, JUDGE) for name in re.findall(r"inputs\.([a-z0-9-]+)", str(step))}
    assert used == set(ACTION["inputs"])
    assert all(it["description"].strip() for it in ACTION["inputs"].values())
    assert {variable(name) for name in ACTION["inputs"]} == set(TEMPLATE["variables"])
    for step in (INSTALL, JUDGE):
        assert "${{" not in step["run"], "text that is pasted into a script could be a part of it"
        assert all(f"${name}" in step["run"] or f"${{{name}" in step["run"] for name in step["env"])
    assert all(f"${name}" in TEMPLATE["script"][0] for name in TEMPLATE["variables"])


def steps_of_examples() -> list[tuple[str, dict[str, str]]]:
    workflow = yaml.safe_load((CI / "github/example.yml").read_text())
    used = [step["with"] for job in workflow["jobs"].values() for step in job["steps"]
            if "infra/ci/github@" in step.get("uses", "")]
    pipeline = yaml.safe_load((CI / "gitlab/example.yml").read_text())
    extending = [it["variables"] for it in pipeline.values() if isinstance(it, dict) and it.get("extends")]
    names = {variable(name): name for name in ACTION["inputs"]}
    assert len(used) == 2 and len(extending) == 2
    return [*(("github", {k: str(v) for k, v in it.items()}) for it in used),
            *(("gitlab", {names[k]: str(v) for k, v in it.items() if k in names}) for it in extending)]


@pytest.mark.parametrize(("kind", "inputs"), steps_of_examples())
def test_an_example_says_when_and_what_was_pushed(kind, inputs, step):
    assert inputs.get("push") or inputs.get("pushed-at")
    assert any(inputs.get(f"expect-{it}") for it in ("chart", "app", "values"))
    # A program that is there already stands for the one that is downloaded.
    done = step.run(kind, {k: v for k, v in inputs.items() if k not in ("version", "download")})
    assert done.returncode == 0, done.stderr


def test_the_time_is_taken_before_the_push():
    for name in ("github", "gitlab"):
        text = (CI / name / "example.yml").read_text()
        assert 0 < text.index("date -u +%Y-%m-%dT%H:%M:%SZ") < text.index("git push\n", text.index("date -u"))
