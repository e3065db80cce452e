"""Recordings of Flux, replayed on the real API server: its CRD, its generations and stamps, judged as written down.

A simulated cluster replays the recording, with its times moved to now. Whatever it shows is written to the real API
server at once: the spec as kustomize-controller, the status by the subresource as helm-controller.
"""

import functools
import json
import threading
from datetime import datetime, timezone

import pytest

from guided import PATIENCE, ROOT, Judgement, deployment

CASES = json.loads((ROOT / "tests/fixtures/verdicts.json").read_text())
API = "/apis/helm.toolkit.fluxcd.io/v2/namespaces/{}/helmreleases"
# The baseline must be there before the push, on a slow machine, too.
PUSH_IN_MS = 12_000


class Mirror:
    """One recording, being replayed into the real API server."""

    def __init__(self, admin, simulated, namespace: str, name: str):
        self._admin, self._simulated, self._namespace, self._name = admin, simulated, namespace, name
        self._path = API.format(namespace)
        self._shown, self._stop = None, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failed: Exception | None = None
        self.changed = threading.Event()
        # What there was before the push.
        self._step()
        self._thread.start()

    def stop(self):
        self._stop.set()
        self._thread.join()
        if self._failed:
            raise self._failed

    def _run(self):
        try:
            while not self._stop.wait(0.1):
                if self._step():
                    self.changed.set()
        except Exception as failed:  # Raised by `stop`, in the test.
            self._failed = failed
            self.changed.set()

    def _step(self) -> bool:
        shown = self._simulated.helm_release(self._namespace, self._name)
        if shown == self._shown:
            return False
        before, self._shown = self._shown, shown
        if shown is None:
            self._admin.call("DELETE", f"{self._path}/{self._name}")
            return True
        if before is None or before["metadata"]["generation"] != shown["metadata"]["generation"]:
            self._write_spec(shown)
        self._write_status(shown)
        return True

    def _write_spec(self, shown: dict):
        wanted = shown["metadata"]["generation"]
        there = self._admin.call("GET", f"{self._path}/{self._name}")
        while (generation := there["metadata"]["generation"] if there else 0) != wanted:
            assert generation < wanted, f"generation {generation} is past {wanted}"
            # The API server counts the generations: those that the recording skips are made by a field without effect.
            skipped = {"maxHistory": 100 + generation} if generation + 1 < wanted else {}
            body = {
                "apiVersion": shown["apiVersion"], "kind": shown["kind"], "spec": shown["spec"] | skipped,
                "metadata": {"name": self._name, "labels": shown["metadata"].get("labels", {})},
            }
            method, path = ("POST", self._path) if there is None else ("PUT", f"{self._path}/{self._name}")
            if there is not None:
                body["metadata"]["resourceVersion"] = there["metadata"]["resourceVersion"]
            there = self._admin.call(method, f"{path}?fieldManager=kustomize-controller", body)

    def _write_status(self, shown: dict):
        path = f"{self._path}/{self._name}"
        there = self._admin.call("GET", path)
        there["status"] = shown.get("status", {})
        there["metadata"].pop("managedFields")
        written = self._admin.call("PUT", f"{path}/status?fieldManager=helm-controller&fieldValidation=Strict", there)
        assert written.get("status", {}) == there["status"], "the API server keeps another status than was recorded"


def replayed(case: dict, name: str, cluster, admin, simulated):
    pushed_at = simulated.replay(case["recording"], cluster.namespace, name, PUSH_IN_MS)
    waits = case["verdict"]["reason"] == "Timeout"
    last = json.loads((ROOT / f"tests/fixtures/{case['recording']}.json").read_text())["frames"][-1]["body"]
    asked = {"": case.get("ask", {})}
    if not waits and "ask" not in case:
        asked["-expected"] = {"expect": {"chartVersion": last["status"]["lastAttemptedRevision"]}}

    def judged(when: str) -> Judgement:
        return Judgement(cluster, cluster.body, *(
            deployment(
                cluster.body, name, cluster.namespace, "flux", f"-{when}{suffix}", 30 if waits else 180,
                pushedAt=pushed_at, **it
            ) for suffix, it in asked.items()
        ))

    mirror = Mirror(admin, simulated, cluster.namespace, name)
    try:
        early = judged("early")
        for first in early.first_answers():
            assert first["status"] == "pending", first
        assert datetime.now(timezone.utc) < time(pushed_at), "too slow: the push is past already"
        mirror.changed.wait(PATIENCE)
        late = judged("late")
        answers = early.verdicts() + late.verdicts()
    finally:
        mirror.stop()
    wanted = case["verdict"]
    for answer in answers:
        came = (answer["status"], answer["reason"], answer["lastReason"])
        assert came == (wanted["status"], wanted["reason"], wanted.get("lastReason")), answer["message"]
        if answer["status"] == "succeeded":
            seen, newest = answer["targets"][0]["observed"], last["status"]["history"][0]
            assert (seen["chartVersion"], seen["appVersion"]) == (newest["chartVersion"], newest["appVersion"])


def time(text: str) -> datetime:
    # Python 3.10 knows no Z.
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def cases():
    """Each of Flux's, looked at before the push and after it; of a verdict also with the pushed version expected."""
    for number, case in enumerate(it for it in CASES if it["recording"].startswith("flux/")):
        recording = case["recording"].removeprefix("flux/")
        run = functools.partial(replayed, case, f"{recording}-{number}")
        yield pytest.param(run, id=f"{recording}{'-expected' if 'ask' in case else ''}")


@pytest.mark.scenario("cluster", "admin", "simulated")
@pytest.mark.parametrize("scenario", list(cases()))
def test_flux(scenario, outcome):
    outcome()
