"""When the tests of a real control plane are skipped, and when they refuse to begin."""

import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / "cluster/run"
# What it uses before it decides.
TOOLS = ("dirname", "grep", "sh")


@pytest.fixture
def run(tmp_path):
    """Runs it on a machine that has these tools and, where one is named, this Go."""

    def run(go: str | None = None, **env: str) -> subprocess.CompletedProcess:
        for tool in TOOLS:
            (tmp_path / tool).symlink_to(shutil.which(tool))
        if go:
            (tmp_path / "go").write_text(f"#!/bin/sh\necho 'go version {go} linux/amd64'\n")
            (tmp_path / "go").chmod(0o755)
        return subprocess.run([RUN], env={"PATH": str(tmp_path)} | env, capture_output=True, text=True, timeout=60)

    return run


@pytest.mark.parametrize("go", [None, "go1.20.14", "go1.2"])
def test_it_is_skipped_aloud_where_no_go_can_build_a_control_plane(run, go):
    done = run(go)
    assert done.returncode == 0 and done.stdout.startswith("skipped: "), done


@pytest.mark.parametrize("go", ["go1.21.0", "go1.26.8", "go2.0"])
def test_with_go_it_says_what_else_is_needed(run, go):
    done = run(go)
    assert done.returncode == 1 and "need curl" in done.stderr, done


@pytest.mark.parametrize("said", [{}, {"DAG_MONITOR_TEST_CLUSTER": "no"}])
def test_another_cluster_is_not_touched_unless_that_is_said(run, said):
    done = run("go1.26.8", KUBECONFIG="anywhere", **said)
    assert done.returncode == 1 and "DAG_MONITOR_TEST_CLUSTER=yes" in done.stderr, done


def test_a_control_plane_that_is_there_is_not_skipped(run):
    done = run(None, KUBEBUILDER_ASSETS="anywhere")
    assert done.returncode == 1 and "need curl" in done.stderr, done
