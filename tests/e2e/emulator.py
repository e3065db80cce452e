"""The emulator of AWS: a process of its own on loopback, that enforces IAM."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

REGION = "eu-central-1"
ACCOUNT = "000000000000"
# The emulator takes this pair for the account's root. Everybody else comes from its IAM.
ROOT_KEY, ROOT_SECRET = "AKIAEMULATORROOT0000", "emulator-root-secret"


class Emulator:
    """Starts it; `stop` ends it and everything it has started. Without `auth` it takes whatever signature comes. `host` is
    the address that it listens on."""

    def __init__(self, directory: Path, auth: bool = True, host: str = "127.0.0.1"):
        directory.mkdir(exist_ok=True)
        self.log = directory / "emulator.log"
        with socket.socket() as it:
            it.bind((host, 0))
            port = it.getsockname()[1]
        self.url = f"http://{host}:{port}"
        environment = {
            # Functions inherit this environment, so it holds nothing of the shell's but what a process needs.
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "TMPDIR": str(directory),
            "AUTH": "true" if auth else "false",
            "BIND_HOST": host,
            "GATEWAY_PORT": str(port),
            "MINISTACK_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ROOT_KEY,
            "AWS_SECRET_ACCESS_KEY": ROOT_SECRET,
            "AWS_ENDPOINT_URL": self.url,
            "IOT_MTLS_ENABLED": "false",
            # Nobody listens there: whether this machine has Docker makes no difference.
            "DOCKER_HOST": "tcp://127.0.0.1:9",
            # An invocation that fails is tried again as on AWS, only sooner.
            "LAMBDA_ASYNC_RETRY_BASE_SECONDS": "1",
        }
        self._process = subprocess.Popen(
            ["ministack"], env=environment, cwd=directory, stdin=subprocess.DEVNULL,
            stdout=self.log.open("w"), stderr=subprocess.STDOUT, start_new_session=True,
        )
        self._wait()

    def _wait(self):
        deadline = time.monotonic() + 60
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(f"the emulator ended:\n{self.log.read_text()}")
            try:
                urllib.request.urlopen(f"{self.url}/_ministack/health", timeout=2).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    self.stop()
                    raise RuntimeError(f"the emulator does not answer:\n{self.log.read_text()}") from None
                time.sleep(0.2)

    @property
    def environment(self) -> dict[str, str]:
        """For programs that shall use it instead of AWS."""
        return {
            **os.environ,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ROOT_KEY,
            "AWS_SECRET_ACCESS_KEY": ROOT_SECRET,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
        }

    def tell_states(self, machine: str, cases: dict[str, dict[str, dict]]):
        """Has states of a machine return or throw something instead of what a service says. An execution that is started
        with `#case` after the machine's ARN is one of these: by case and state, what comes (as in Step Functions Local:
        `{"Throw": {"Error": "...", "Cause": "..."}}`), at every visit."""
        names = {(case, state): f"{case}-{state}" for case, states in cases.items() for state in states}
        config = {
            "StateMachines": {machine: {"TestCases": {
                case: {state: names[case, state] for state in states} for case, states in cases.items()}}},
            "MockedResponses": {
                names[case, state]: {"0-9999": it} for case, states in cases.items() for state, it in states.items()},
        }
        request = urllib.request.Request(
            f"{self.url}/_ministack/config", method="POST", headers={"content-type": "application/json"},
            data=json.dumps({"stepfunctions._sfn_mock_config": config}).encode())
        with urllib.request.urlopen(request, timeout=10) as it:
            assert json.load(it)["applied"], "the emulator does not know this setting"

    def processes(self, function: str) -> list[int]:
        """The processes of a function that run now; each is one execution environment."""
        found, name = [], f"AWS_LAMBDA_FUNCTION_NAME={function}\0".encode()
        for it in Path("/proc").iterdir():
            # Between two looks a process may end.
            with contextlib.suppress(OSError):
                if it.name.isdigit() and os.getsid(int(it.name)) == self._process.pid:
                    if name in (it / "environ").read_bytes() + b"\0":
                        found.append(int(it.name))
        return found

    def stop(self):
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        # The functions that it runs are processes of its session.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
