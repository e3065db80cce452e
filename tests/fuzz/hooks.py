"""Makes some of the generated requests meet what is there, so that more is reached than refusals; adds the checks that
no document can express; and counts.

A request that is sound by the document and names a cluster of its own invention gets no further than the probe. So
every second sound registration is led to the simulated cluster, and later requests to what was made before."""

import atexit
import collections
import json
import os
import shlex

import schemathesis


def served():
    """The bodies of the commands that the server printed, by their paths."""
    bodies = {}
    with open(os.environ["FUZZ_SERVED"], encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("curl "):
                _, url, *_, body = shlex.split(line)
                bodies[url.rsplit("/", 1)[1]] = json.loads(body)
    return bodies


SERVED = served()
CLUSTER = SERVED["clusters"]
RELEASES = ["checkout", "invoices"]
UNKNOWN = "(methods that the document does not know)"

turns = collections.Counter()
counts = collections.defaultdict(collections.Counter)
# What was made, in the order in which it was; gone ones are taken out.
clusters = []
environments = []
deployments = []
# Requests that can't be refused, by the ids of their cases.
sound = set()


def label(case):
    if case.method.upper() != case.operation.method.upper():
        return UNKNOWN
    return f"{case.method} {case.operation.path}"


def is_positive(case):
    return case.meta is not None and case.meta.generation.mode.is_positive


@schemathesis.hook
def before_call(context, case, kwargs):
    operation = label(case)
    turns[operation] += 1
    turn = turns[operation]
    if not is_positive(case):
        return
    lead_path(case, turn)
    body = case.body
    if not isinstance(body, dict):
        return
    if operation == "POST /clusters" and turn % 2 == 0:
        reachable = {key: CLUSTER[key] for key in ("apiUrl", "serviceAccountToken", "caCert")}
        kept = {key: body[key] for key in ("name", "namespaces") if key in body}
        case.body = kept | reachable
        sound.add(case.id)
    elif operation == "PUT /clusters/{id}" and turn % 2 == 0:
        changed = {key: CLUSTER[key] for key in ("apiUrl", "serviceAccountToken", "caCert")}
        kept = {"namespaces": body["namespaces"]} if "namespaces" in body else {}
        # Only the token: as it is rotated.
        case.body = kept | (changed if turn % 4 == 0 else {"serviceAccountToken": CLUSTER["serviceAccountToken"]})
    elif operation == "PUT /apps/{app}/environments/{environment}" and clusters and turn % 4 != 0:
        case.body = body | {"targets": targets(turn)}
    elif operation == "POST /deployments" and turn % 4 != 0:
        lead_deployment(case, body, turn)


def targets(turn):
    known = clusters[-(1 + turn % min(len(clusters), 5))]
    return [{"cluster": known, "namespace": "shop", "release": RELEASES[turn % 2]}]


def lead_deployment(case, body, turn):
    if "targets" in body and clusters:
        # Of either kind on purpose: what Flux drives is no release of Helm's, and the other way round.
        led = {"targets": targets(turn), "timeoutSecs": 10, "allowUnchanged": turn % 3 != 0}
        case.body = body | led
    elif "targets" not in body and environments:
        app, environment = environments[turn % len(environments)]
        case.body = body | {"app": app, "environment": environment, "timeoutSecs": 10}


def lead_path(case, turn):
    operation = label(case)
    # What is deleted is missing afterwards, so fewer of these.
    if turn % (8 if case.method == "DELETE" else 2) != 0:
        return
    path = dict(case.path_parameters or {})
    if "/clusters/{id}" in operation and clusters:
        path["id"] = clusters[turn % len(clusters)]
    elif "{environment}" in operation and environments:
        path["app"], path["environment"] = environments[turn % len(environments)]
    elif "/apps/{app}" in operation and environments:
        path["app"] = environments[turn % len(environments)][0]
    elif "/deployments/{id}" in operation and deployments:
        path["id"] = deployments[turn % len(deployments)]
    elif operation == "GET /deployments" and environments:
        query = dict(case.query or {})
        query["app"], query["environment"] = environments[turn % len(environments)]
        case.query = query
        return
    else:
        return
    case.path_parameters = path


@schemathesis.hook
def after_call(context, case, response):
    counts[label(case)][response.status_code] += 1
    location = (response.headers.get("location") or [""])[0].strip("/").split("/")
    gone = response.request.url.split("?")[0].rstrip("/").split("/")
    match response.status_code, location:
        case 201, ["clusters", cluster]:
            if response.json()["namespaces"] is None:
                clusters.append(cluster)
        case 201, ["apps", app, _, environment]:
            environments.append((app, environment))
        case 202, ["deployments", deployment]:
            deployments.append(deployment)
        case 204, _ if "clusters" in gone and gone[-1] in clusters:
            clusters.remove(gone[-1])
        case 204, _ if "apps" in gone and (gone[-3], gone[-1]) in environments:
            environments.remove((gone[-3], gone[-1]))


@schemathesis.check
def a_sound_registration_is_accepted(ctx, response, case):
    """Or its name is taken."""
    if case.id in sound and response.status_code not in (201, 409):
        raise AssertionError(f"the simulated cluster was not registered: {response.status_code} {response.text}")


@schemathesis.check
def no_answer_shows_the_token(ctx, response, case):
    """Whatever was asked."""
    if CLUSTER["serviceAccountToken"] in response.text:
        raise AssertionError("the token is in the answer")


@atexit.register
def write():
    with open(os.environ["FUZZ_COUNTS"], "w", encoding="utf-8") as out:
        json.dump(counts, out)
