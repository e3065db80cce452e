"""Real Helm, judged through the guide's account. No scenario asserts when: each waits for the verdict, whenever it comes.

Each push is judged four times: with the first check before it and after it, with an expectation and without.
"""

import base64
import functools
import json
import os
from datetime import timedelta

import pytest

from guided import Release, next_second

HELMS = ("helm3", "helm4")
# Nobody comes to make a pod run, so this fails by its timeout.
UNAVAILABLE = ("--set=deployment=true", "--wait", "--timeout=3s")
# What is never decided waits so long, in seconds, after the push.
WAITS = 15


def pushed(release: Release, push, expect: dict, by_hand=False, waits=False) -> tuple[list[dict], list[dict]]:
    """The answers to a push: without the expectation and with it, each of who looked before the push and after it.

    Who looks before it checks by the clock meanwhile, or, by hand, just before the push and from its end on: for pushes
    of which a check may see another thing on the way, and for those that nothing comes of.
    """
    name = f"-{len(release.revisions())}"

    def asked(when: str, **more) -> list[dict]:
        return [
            release.request(f"{name}-{when}", **more), release.request(f"{name}-{when}-expected", expect=expect, **more)
        ]

    # A stamp of Kubernetes is cut to the second: what was there before must be of an earlier one.
    before = next_second()
    if by_hand or waits:
        with release.by_hand() as hand:
            early = asked("early", timeout=WAITS)
            for request in early:
                assert (first := hand.check(request))["status"] == "pending", first
            push()
            early = [hand.verdict(it) for it in early]
        late = release.judge(*asked("late", pushedAt=before, **{"timeout": WAITS} if waits else {}))
    else:
        judgement = release.judge(*asked("early", pushedAt=before))
        for first in judgement.first_answers():
            assert first["status"] == "pending", first
        push()
        late = release.judge(*asked("late", pushedAt=before))
        early = judgement.verdicts()
    late = late.verdicts()
    return [early[0], late[0]], [early[1], late[1]]


def ended(answers, status: str, reason: str, chart: str | None = None, revision: int | None = None, last=None, says=""):
    """Asserts the verdict; of a success the versions, too."""
    for answer in answers:
        came = (answer["status"], answer["reason"], answer["lastReason"])
        assert came == (status, reason, last), answer["message"]
        seen = answer["targets"][0]["observed"]
        if chart:
            assert (seen["chartVersion"], seen["appVersion"]) == (chart, f"2026.{chart}"), answer
        if revision:
            assert seen["revision"] == revision, answer
        assert says in answer["message"], answer["message"]


def succeeded(without, expected, chart: str, revision: int):
    ended(without + expected, "succeeded", "Deployed", chart, revision)
    assert [it["evidence"] for it in without] == ["changed"] * 2
    assert [it["evidence"] for it in expected] == ["expected"] * 2


def failed(without, expected, reason: str, **more):
    ended(without + expected, "failed", reason, **more)


def install(release):
    succeeded(*pushed(release, release.install, version("1.0.0")), "1.0.0", 1)


def upgrade(release):
    installed(release)
    succeeded(*pushed(release, release.upgrade, version("1.1.0")), "1.1.0", 2)


def upgrade_to_another_version_than_expected(release):
    installed(release)
    without, expected = pushed(release, release.upgrade, version("1.2.0"), waits=True)
    ended(without, "succeeded", "Deployed", "1.1.0", 2)
    ended(expected, "failed", "Timeout", "1.1.0", last="OtherVersion")


def upgrade_overtaken_by_another(release):
    installed(release)
    push = lambda: (release.upgrade("1.1.0"), release.upgrade("1.2.0"))  # noqa: E731
    without, (seen, late) = pushed(release, push, version("1.1.0"), waits=True)
    ended(without, "succeeded", "Deployed", "1.2.0", 3)
    ended([seen], "succeeded", "Superseded")
    # Whether it ran already before the push can't be told afterwards.
    ended([late], "failed", "Timeout", "1.2.0", last="OtherVersion")


def upgrade_of_values_only(release):
    installed(release)
    push = lambda: release.upgrade("1.0.0", "--set=text=new")  # noqa: E731
    succeeded(*pushed(release, push, version("1.0.0") | {"values": {"/text": "new"}}), "1.0.0", 2)


def upgrade_rejected_by_the_api_server(release):
    installed(release)
    push = lambda: release.upgrade("1.1.0", "--set=rejected=true", fails=True)  # noqa: E731
    failed(*pushed(release, push, version("1.1.0")), "UpgradeFailed", revision=2, says="99999")


def upgrade_times_out(release):
    installed(release)
    push = lambda: release.upgrade("1.1.0", *UNAVAILABLE, fails=True)  # noqa: E731
    failed(*pushed(release, push, version("1.1.0")), "UpgradeFailed", revision=2)


def hook_fails(release):
    installed(release)
    push = lambda: release.upgrade("1.1.0", "--set=hook=true", "--timeout=3s", fails=True)  # noqa: E731
    failed(*pushed(release, push, version("1.1.0")), "UpgradeFailed", revision=2, says="hook")


def first_install_fails(release):
    push = lambda: release.install("1.0.0", *UNAVAILABLE, fails=True)  # noqa: E731
    failed(*pushed(release, push, version("1.0.0")), "InstallFailed", revision=1)


def failed_release_is_mended(release):
    installed(release)
    release.upgrade("1.1.0", "--set=rejected=true", fails=True)
    succeeded(*pushed(release, release.upgrade, version("1.1.0")), "1.1.0", 3)


def upgrade_fails_and_is_rolled_back(release):
    installed(release)
    push = lambda: release.upgrade("1.1.0", *UNAVAILABLE, atomic(release), fails=True)  # noqa: E731
    failed(*pushed(release, push, version("1.1.0"), by_hand=True), "RolledBack", revision=3)


def first_install_fails_and_is_removed(release):
    with release.by_hand() as hand:
        asked = [release.request(), release.request("-expected", expect=version("1.0.0"))]
        for request in asked:
            assert hand.check(request)["reason"] == "NotFound"
        with release.running("install", 1, "--timeout=5s", atomic(release)):
            for request in asked:
                assert hand.check(request)["reason"] == "Progressing"
        failed([], [hand.verdict(it) for it in asked], "Removed")
    # Who comes later finds no trace of it.
    answer = release.judge(release.request("-late", timeout=WAITS)).verdict()
    ended([answer], "failed", "Timeout", last="NotFound")


def rolled_back_by_hand(release):
    installed(release)
    release.upgrade()
    without, expected = pushed(release, lambda: release.rollback(1), version("1.0.0"))
    ended(without, "failed", "RolledBack", revision=3)
    ended(expected, "succeeded", "Deployed", "1.0.0", 3)


def upgrade_killed_midway(release):
    installed(release)
    push = lambda: release.killed("upgrade", 2)  # noqa: E731
    failed(*pushed(release, push, version("1.1.0"), waits=True), "Timeout", last="Progressing", revision=2)
    # Helm refuses to work over it, and leaves no trace of that.
    push = lambda: release.upgrade("1.1.0", fails=True)  # noqa: E731
    failed(*pushed(release, push, version("1.1.0"), waits=True), "Timeout", last="WaitingForChange")

    if control_plane := release.cluster.control_plane:
        secret = f"sh.helm.release.v1.{release.name}.v2"
        control_plane.age("secrets", release.namespace, secret, timedelta(minutes=16))
        with release.by_hand() as hand:
            locked = hand.check(release.request("-locked", timeout=WAITS))
            ended([locked], "failed", "Locked", says="revision 2 is pending-upgrade")
            # Where so much time is given, Helm may still be at work.
            assert hand.check(release.request("-patient", timeout=3600))["reason"] == "WaitingForChange"
    # As the message says, and it works again.
    release.rollback(1)
    succeeded(*pushed(release, release.upgrade, version("1.1.0")), "1.1.0", 4)


def first_install_killed_midway(release):
    push = lambda: release.killed("install", 1)  # noqa: E731
    failed(*pushed(release, push, version("1.1.0"), waits=True), "Timeout", last="Progressing", revision=1)


def fails_before_the_first_write(release):
    installed(release)
    push = lambda: release.upgrade("1.1.0", "--set=broken=true", fails=True)  # noqa: E731
    failed(*pushed(release, push, version("1.1.0"), waits=True), "Timeout", last="WaitingForChange")


def uninstalled(release):
    installed(release)
    failed(*pushed(release, release.uninstall, version("1.1.0"), waits=True), "Timeout", last="NotFound")


def uninstalled_and_kept(release):
    installed(release)
    push = lambda: release.uninstall("--keep-history")  # noqa: E731
    failed(*pushed(release, push, version("1.1.0"), waits=True), "Timeout", last="WaitingForChange")


def old_revisions_are_pruned(release):
    installed(release)
    for number in (2, 3):
        release.upgrade("1.0.0", f"--set=text={number}")
    push = lambda: release.upgrade("1.1.0", "--history-max=3")  # noqa: E731
    succeeded(*pushed(release, push, version("1.1.0")), "1.1.0", 4)
    assert release.revisions() == [2, 3, 4]


def large_values(release):
    installed(release)
    values = release.cluster.folder / f"{release.name}.json"
    # Random, so that packing spares nothing: Helm's secret has about 500 KiB then.
    values.write_text(json.dumps({"ballast": base64.b64encode(os.urandom(370 * 1024)).decode(), "text": "new"}))
    push = lambda: release.upgrade("1.1.0", f"--values={values}")  # noqa: E731
    succeeded(*pushed(release, push, {"values": {"/text": "new"}}), "1.1.0", 2)


def nothing_happens(release):
    installed(release)
    failed(*pushed(release, lambda: None, version("1.1.0"), waits=True), "Timeout", last="WaitingForChange")


def version(chart: str) -> dict:
    return {"chartVersion": chart, "appVersion": f"2026.{chart}"}


def atomic(release) -> str:
    return "--atomic" if release.major == 3 else "--rollback-on-failure"


def installed(release):
    release.install()


SCENARIOS = (
    install, upgrade, upgrade_to_another_version_than_expected, upgrade_overtaken_by_another, upgrade_of_values_only,
    upgrade_rejected_by_the_api_server, upgrade_times_out, hook_fails, first_install_fails, failed_release_is_mended,
    upgrade_fails_and_is_rolled_back, first_install_fails_and_is_removed, rolled_back_by_hand, upgrade_killed_midway,
    first_install_killed_midway, fails_before_the_first_write, uninstalled, uninstalled_and_kept,
    old_revisions_are_pruned, large_values, nothing_happens,
)


def run(scenario, helm, cluster):
    # Helm takes 53 characters.
    scenario(Release(cluster, helm, f"{helm}-{scenario.__name__.replace('_', '-')}"[:53]))


def cases():
    # The longest is begun first.
    for scenario in sorted(SCENARIOS, key=lambda it: it is not upgrade_killed_midway):
        for helm in HELMS:
            yield pytest.param(functools.partial(run, scenario, helm), id=f"{helm}-{scenario.__name__}")


@pytest.mark.scenario("cluster")
@pytest.mark.parametrize("scenario", list(cases()))
def test_helm(scenario, outcome):
    outcome()
