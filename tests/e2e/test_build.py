"""What `sam build` made can run where it will run."""

import os
import re
from pathlib import Path

import pytest

# Amazon Linux 2023, on which the runtime provided.al2023 stands, has this version of the C library.
NEWEST = (2, 34)
# What is loaded at each cold start.
MOST_BYTES = 8 * 1024 * 1024


@pytest.fixture(params=["CheckFunction", "RegisterFunction"])
def bootstrap(request) -> Path:
    return Path(os.environ["E2E_TEMPLATE"]).parent / request.param / "bootstrap"


def test_a_bootstrap_is_small(bootstrap):
    assert bootstrap.stat().st_size <= MOST_BYTES


def test_a_bootstrap_needs_no_newer_c_library_than_lambda_has(bootstrap):
    needed = {(int(major), int(minor)) for major, minor in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", bootstrap.read_bytes())}
    assert needed and max(needed) <= NEWEST
