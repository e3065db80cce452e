"""Every stored state of every watched timeline, written to the real API server and judged as written down.

As in the tests of the rules: the first look falls on what stood before the stretch, the second on the state, the third
finds it unchanged. Here the API server says what a look is told: its CRD, its generation, its uid, its stamps.
"""

import functools
import json

import pytest

from guided import ROOT, Hand, deployment

FIXTURES = ROOT / "tests/fixtures"
API = "/apis/helm.toolkit.fluxcd.io/v2/namespaces/{}/helmreleases"
TIMELINES = sorted(
    it.stem for it in (FIXTURES / "timelines").glob("*.jsonl") if not it.name.endswith(".secrets.jsonl")
)


class Stored:
    """The HelmRelease of one timeline on the API server."""

    def __init__(self, admin, namespace: str, name: str):
        self._admin, self.name = admin, name
        self._all, self._path = API.format(namespace), f"{API.format(namespace)}/{name}"

    def write(self, event: str, recorded: dict):
        """Makes it what was recorded, by writes such as they were."""
        there = self._admin.call("GET", self._path)
        if event == "DELETED":
            assert "deletionTimestamp" in there["metadata"]
            self._let_go(there)
            assert self._admin.call("GET", self._path) is None
            return
        there = self._write_object(there, recorded)
        generation, wanted = there["metadata"]["generation"], recorded["metadata"]["generation"]
        assert generation == wanted, f"the API server counts {generation} generations, not {wanted}"
        status = recorded.get("status", {})
        if there.get("status", {}) != status:
            there["status"] = status
            path = f"{self._path}/status?fieldManager=helm-controller&fieldValidation=Strict"
            kept = self._admin.call("PUT", path, there).get("status", {})
            assert kept == status, "the API server keeps another status than was recorded"

    def remove(self):
        """Whatever it is by now: held by a finalizer, it would hold its namespace and the CRD."""
        if there := self._admin.call("GET", self._path):
            self._let_go(there)
            self._admin.call("DELETE", self._path)

    def _let_go(self, there: dict):
        there["metadata"]["finalizers"] = []
        self._admin.call("PUT", f"{self._path}?fieldManager=helm-controller", there)

    def _write_object(self, there: dict | None, recorded: dict) -> dict:
        metadata = {key: recorded["metadata"].get(key) for key in ("labels", "annotations", "finalizers")}
        metadata = {key: value for key, value in metadata.items() if value}
        body = {"apiVersion": recorded["apiVersion"], "kind": recorded["kind"], "spec": recorded["spec"]}
        if there is None:
            created = body | {"metadata": metadata | {"name": self.name}}
            return self._admin.call("POST", f"{self._all}?fieldManager=kustomize-controller", created)
        if "deletionTimestamp" in recorded["metadata"] and "deletionTimestamp" not in there["metadata"]:
            return self._admin.call("DELETE", self._path)
        if there["spec"] != body["spec"] or any(there["metadata"].get(it) != metadata.get(it) for it in metadata):
            version = {"name": self.name, "resourceVersion": there["metadata"]["resourceVersion"]}
            body |= {"metadata": metadata | version, "status": there.get("status", {})}
            return self._admin.call("PUT", f"{self._path}?fieldManager=kustomize-controller", body)
        return there


def stretches(timeline: str):
    """From one note to the next: the note, and what was stored until then."""
    found = []
    for line in (FIXTURES / "timelines" / f"{timeline}.jsonl").read_text().splitlines():
        line = json.loads(line)
        if "note" in line:
            found.append((line, []))
        elif found:
            found[-1][1].append(line)
    return [it for it in found if it[1]]


def judged(timeline: str, cluster, admin):
    stored = Stored(admin, cluster.namespace, f"timeline-{timeline.split('-')[0]}")
    try:
        told = list(said(timeline, cluster, stored))
    finally:
        stored.remove()
    assert told == (FIXTURES / "states" / f"{timeline}.txt").read_text().splitlines()


def said(timeline: str, cluster, stored: Stored):
    """A line for each note and each state."""
    name, number = stored.name, 0
    with Hand(cluster, cluster.body, name) as hand:
        for note, states in stretches(timeline):
            yield f"# {note['t_ms']} ms: {note['note']}"
            # Each state is judged by a deployment of its own; all of them have the same beginning.
            asked = [
                deployment(cluster.body, name, cluster.namespace, "flux", f"-{number + n}", timeout=7200)
                for n in range(len(states))
            ]
            number += len(states)
            for request in asked:
                hand.check(request)
            for request, state in zip(asked, states):
                stored.write(state["event"], state["object"])
                looks = [hand.check(request)["targets"][0] for _ in range(2)]
                words = "".join(f" {it['status']} {it['reason']};" for it in looks)
                target = f"HelmRelease {cluster.namespace}/{name} on {looks[1]['cluster']}"
                message = looks[1]["message"].replace(target, "HelmRelease apps/demo on prod-eu")
                yield f"{state['t_ms']:>7} ms {words} {message}"


@pytest.mark.scenario("cluster", "admin")
@pytest.mark.parametrize("scenario", [pytest.param(functools.partial(judged, it), id=it) for it in TIMELINES])
def test_states(scenario, outcome):
    outcome()
