"""The adapters of AWS keep the same contracts as the in-memory twins: the Rust tests of that, against the emulator."""

import os
import subprocess
from pathlib import Path

import pytest
from emulator import Emulator

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def open_emulator(directory):
    """One of their own: what they test is the requests, and they sign them as nobody whom IAM knows."""
    it = Emulator(directory / "open", auth=False)
    yield it
    it.stop()


def test_the_adapters_keep_the_contracts(open_emulator):
    done = subprocess.run(
        # The whole workspace, so that nothing is compiled anew that the other tests have compiled.
        ["cargo", "test", "--quiet", "--locked", "--workspace", "--test", "emulator"],
        env={**os.environ, "AWS_ENDPOINT_URL_TEST": open_emulator.url}, cwd=ROOT, stdin=subprocess.DEVNULL,
        capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not run" not in done.stderr
    assert "7 passed" in done.stdout
