"""The stack on the emulator of AWS, with a simulated cluster registered, for somebody who wants to use it by hand.

Writes how to reach it into target/local-aws, and stays until it is interrupted. It listens on 127.0.0.1, or on the
address that BIND_HOST names."""

import base64
import json
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

from cluster import SimulatedCluster
from emulator import REGION, ROOT_KEY, ROOT_SECRET, Emulator
from samcli.yamlhelper import yaml_dump, yaml_parse
from stack import NAME, Stack

CLUSTER, APP, ENVIRONMENT = "Sim EU", "checkout", "production"
# What is replayed there, once somebody says that it is pushed.
RELEASES = {"checkout": "flux/chart-upgrade", "invoices": "flux/upgrade-fails-rolled-back"}
PUSH_IN_MS = 3_600_000


def main():
    ended = threading.Event()
    for it in (signal.SIGINT, signal.SIGTERM):
        signal.signal(it, lambda *_: ended.set())
    template, folder = Path(os.environ["E2E_TEMPLATE"]), Path(os.environ["E2E_BY_HAND"])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        emulator = Emulator(Path(directory), host=os.environ.get("BIND_HOST", "127.0.0.1"))
        try:
            stack = Stack(emulator, str(template), folder / "deploy.log")
            cluster = SimulatedCluster(os.environ["E2E_SIMULATED_CLUSTER"], folder / "cluster.log")
            try:
                furnish(stack, cluster)
                write(folder, template, emulator, stack, cluster)
                print(instructions(folder, template), flush=True)
                ended.wait()
            finally:
                cluster.stop()
        finally:
            emulator.stop()


def furnish(stack: Stack, cluster: SimulatedCluster):
    """Two releases, and an environment of one of them."""
    for release, recording in RELEASES.items():
        cluster.play(recording, release, push_in_ms=PUSH_IN_MS)
    operator = stack.operator()
    for method, path, body in (
        ("POST", "/clusters", {"name": CLUSTER, "apiUrl": cluster.api_url, "serviceAccountToken": cluster.token,
                               "caCert": cluster.ca_cert}),
        ("PUT", f"/apps/{APP}/environments/{ENVIRONMENT}", {
            "helmType": "flux", "targets": [{"cluster": CLUSTER, "namespace": "e2e", "release": "checkout"}]}),
    ):
        answer = stack.request(method, path, body, operator)
        if answer.status != 201:
            raise RuntimeError(f"{method} {path}: {answer.status} {answer.text}")


def write(folder: Path, template: Path, emulator: Emulator, stack: Stack, cluster: SimulatedCluster):
    """What other programs need: for shells, for `sam local`, for kubectl."""
    variables = {
        "AWS_ENDPOINT_URL": emulator.url, "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": ROOT_KEY, "AWS_SECRET_ACCESS_KEY": ROOT_SECRET,
        "DAG_MONITOR_STACK": NAME, "DAG_MONITOR_ENDPOINT": stack.api_url, "API": stack.api_url,
        "STATE_MACHINE_ARN": stack.outputs["StateMachineArn"],
        "KUBECONFIG": str(folder / "kubeconfig"), "CLUSTER_CONTROL": cluster.control_url,
    }
    private(folder / "env", "".join(f"export {name}='{value}'\n" for name, value in variables.items()))
    private(folder / "kubeconfig", json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "sim",
        "clusters": [{"name": "sim", "cluster": {
            "server": cluster.api_url, "certificate-authority-data": base64.b64encode(cluster.ca_cert.encode()).decode()}}],
        "users": [{"name": "sim", "user": {"token": cluster.token}}],
        "contexts": [{"name": "sim", "context": {"cluster": "sim", "user": "sim", "namespace": "e2e"}}],
    }))
    functions = {name: stack.function(f"{name}Name")["Environment"]["Variables"]
                 for name in ("CheckFunction", "RegisterFunction")}
    (folder / "env.json").write_text(json.dumps(functions, indent=2))
    # SAM gives a container no variable that the template doesn't name. Beside the built one, for its paths.
    built = yaml_parse(template.read_text())
    built["Globals"]["Function"]["Environment"]["Variables"]["AWS_ENDPOINT_URL"] = emulator.url
    template.with_name("by-hand.yaml").write_text(yaml_dump(built))


def private(path: Path, text: str):
    """A file for nobody else."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as it:
        it.write(text)


def instructions(folder: Path, template: Path) -> str:
    return f"""The stack "{NAME}" is deployed, cluster "{CLUSTER}" is registered, {APP} {ENVIRONMENT} is an environment.
In another terminal:

  . {folder}/env

A push is a replay of a recording, here in five seconds; the deployment tells what became of it:

  curl -sX POST "$CLUSTER_CONTROL/play" --json '{{"scenario": "flux/chart-upgrade", "namespace": "e2e", "name": "checkout", "pushInMs": 5000}}'
  aws stepfunctions start-execution --state-machine-arn "$STATE_MACHINE_ARN" --name first \\
    --input '{{"app": "{APP}", "environment": "{ENVIRONMENT}"}}'
  dag-monitor deployments show first

A function in a container, with the stores of this stack. A container reaches the address of its bridge, so begin with
`BIND_HOST=172.17.0.1 make local-aws` for it:

  sam local invoke RegisterFunction -t {template.with_name("by-hand.yaml")} --env-vars {folder}/env.json \\
    --event infra/events/register-post.json

Ctrl-C ends it, and nothing is left."""


if __name__ == "__main__":
    sys.exit(main())
