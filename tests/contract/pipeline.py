"""The steps for pipelines, GitHub's and GitLab's, run as their runners run them."""

import os
import re
import subprocess
from pathlib import Path

import yaml

CI = Path(__file__).parents[2] / "infra/ci"
ACTION = yaml.safe_load((CI / "github/action.yml").read_text())
TEMPLATE = yaml.safe_load((CI / "gitlab/dag-monitor.yml").read_text())[".dag-monitor"]
INSTALL, JUDGE = ACTION["runs"]["steps"]
KINDS = ("github", "gitlab")
# What the runner knows.
GITHUB = {"server_url": "file:", "action_repository": "shop/dag-monitor"}

# Ends as it is told, and writes down its arguments, each on a line.
PROGRAM = """#!/bin/sh
printf '%s\\n' "$@" > "$SEEN"
exit "${EXIT:-0}"
"""


def variable(name: str) -> str:
    """An input's name on GitLab."""
    return "DAG_MONITOR_" + name.upper().replace("-", "_")


class Step:
    """A step as its runner runs it, with a program that tells its arguments, or with the real one."""

    def __init__(self, folder: Path, program: str | None = None):
        self._folder = folder
        (folder / "bin").mkdir()
        self.program = folder / "bin/dag-monitor"
        if program:
            self.program.symlink_to(program)
        else:
            self.program.write_text(PROGRAM)
            self.program.chmod(0o755)

    def run(self, kind: str, inputs: dict[str, str], **variables: str) -> subprocess.CompletedProcess:
        (self._folder / "seen").unlink(missing_ok=True)
        environment = {"PATH": f"{self.program.parent}:{os.environ['PATH']}", "SEEN": str(self._folder / "seen")}
        if kind == "github":
            given = {name: it["default"] for name, it in ACTION["inputs"].items()} | inputs
            assert set(given) == set(ACTION["inputs"])
            for step in (INSTALL, JUDGE):
                for name, value in step["env"].items():
                    environment[name] = re.sub(
                        r"\$\{\{ (inputs|github)\.([a-z0-9_-]+) }}",
                        lambda it: given[it[2]] if it[1] == "inputs" else GITHUB[it[2]], value)
            for name in ("OUTPUT", "PATH"):
                (self._folder / name).write_text("")
                environment[f"GITHUB_{name}"] = str(self._folder / name)
            environment["RUNNER_TEMP"] = str(self._folder)
            # As the runner does for `shell: bash`.
            shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"]
            if inputs.get("version"):
                done = subprocess.run([*shell, INSTALL["run"]], env=environment, capture_output=True, text=True)
                if done.returncode:
                    return done
                environment["PATH"] = f"{(self._folder / 'PATH').read_text().strip()}:{environment['PATH']}"
            command = [*shell, JUDGE["run"]]
        else:
            given = {variable(name): value for name, value in inputs.items()}
            assert set(given) <= set(TEMPLATE["variables"])
            environment |= TEMPLATE["variables"] | given
            command = ["sh", "-c", "\n".join(TEMPLATE["script"])]
        return subprocess.run(command, env=environment | variables, cwd=self._folder, capture_output=True, text=True)

    @property
    def seen(self) -> list[str] | None:
        """What the program got; nothing where it was not run."""
        there = self._folder / "seen"
        return there.read_text().splitlines() if there.exists() else None

    @property
    def outcome(self) -> str:
        return (self._folder / "OUTPUT").read_text().strip().removeprefix("outcome=")
