"""The emulator of AWS: a process of its own on loopback, that enforces IAM."""

import contextlib
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
    """Starts it; `stop` ends it and everything it has started. Without `auth` it takes whatever signature comes."""

    def __init__(self, directory: Path, auth: bool = True):
        directory.mkdir(exist_ok=True)
        self.log = directory / "emulator.log"
        with socket.socket() as it:
            it.bind(("127.0.0.1", 0))
            port = it.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        environment = {
            # Functions inherit this environment, so it holds nothing of the shell's but what a process needs.
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "TMPDIR": str(directory),
            "AUTH": "true" if auth else "false",
            "BIND_HOST": "127.0.0.1",
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
