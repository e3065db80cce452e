"""What `sam build` made can run where it will run."""

import os
import re
from pathlib import Path

import pytest

# Amazon Linux 2023, on which the runtime provided.al2023 stands, has this version of the C library.
NEWEST = (2, 34)


@pytest.mark.parametrize("function", ["CheckFunction", "RegisterFunction"])
def test_a_bootstrap_needs_no_newer_c_library_than_lambda_has(function):
    bootstrap = Path(os.environ["E2E_TEMPLATE"]).parent / function / "bootstrap"
    needed = {(int(major), int(minor)) for major, minor in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", bootstrap.read_bytes())}
    assert needed and max(needed) <= NEWEST
