#!/usr/bin/env python3
"""A check function that fails as it is told and then hands on to the real one. It is deployed as a bootstrap."""

import json
import os
import tempfile
import time
import urllib.request
from pathlib import Path

API = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2018-06-01/runtime/invocation"
# By deployment, what becomes of each try: `exit`, `hang`, or the name of an error.
SCRIPT = json.loads(os.environ["SCRIPT"])


def told(deployment: str) -> str | None:
    """What becomes of this try. They are counted in a file: a process that ends takes its memory with it."""
    tries = Path(tempfile.gettempdir(), f"tries-of-{deployment}")
    with tries.open("a") as it:
        it.write(".")
    done, script = tries.stat().st_size - 1, SCRIPT.get(deployment, [])
    return script[done] if done < len(script) else None


def answer(event: dict) -> tuple[str, object]:
    match told(event["deploymentId"]):
        case "exit":
            os._exit(1)
        case "hang":
            time.sleep(600)
        case str(name):
            return "error", {"errorType": name, "errorMessage": "told to fail"}
    return handed_on(event)


def handed_on(event: dict) -> tuple[str, object]:
    """What the real function says, asked with this one's own rights."""
    # Not above: whatever else becomes of a try must not wait for it.
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    url = f"{os.environ['AWS_ENDPOINT_URL']}/2015-03-31/functions/{os.environ['REAL_FUNCTION']}/invocations"
    keys = [os.environ[f"AWS_{it}"] for it in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")]
    request = AWSRequest("POST", url, data=json.dumps(event).encode())
    SigV4Auth(Credentials(*keys), "lambda", os.environ["AWS_REGION"]).add_auth(request)
    request = urllib.request.Request(url, data=request.data, headers=dict(request.headers.items()))
    with urllib.request.urlopen(request) as it:
        return "error" if "X-Amz-Function-Error" in it.headers else "response", json.load(it)


while True:
    with urllib.request.urlopen(f"{API}/next") as it:
        request, event = it.headers["Lambda-Runtime-Aws-Request-Id"], json.load(it)
    kind, body = answer(event)
    urllib.request.urlopen(f"{API}/{request}/{kind}", data=json.dumps(body).encode()).close()
