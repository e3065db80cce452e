"""Real Helm, judged through the guide's account. No scenario asserts when: each waits for the verdict, whenever it comes."""

import base64
import functools
import json
import os

import pytest

from guided import Release, next_second

HELMS = ("helm3", "helm4")
# Nobody comes to make a pod run, so this fails by its timeout.
UNAVAILABLE = ("--set=deployment=true", "--wait", "--timeout=3s")


def ended(answer: dict, status: str, reason: str, chart: str | None = None, revision: int | None = None, last=None):
    """Asserts the verdict; of a success the versions, too."""
    target = answer["targets"][0]
    came = (answer["status"], answer["reason"], answer["lastReason"])
    assert came == (status, reason, last), answer["message"]
    seen = target["observed"]
    if chart:
        assert (seen["chartVersion"], seen["appVersion"]) == (chart, f"2026.{chart}"), target
    if revision:
        assert seen["revision"] == revision, target


def pushed(release: Release, late: bool, push, **request) -> dict:
    """The verdict on a push that the first check comes before, or after."""
    # A stamp of Kubernetes is cut to the second: what was there before must be of an earlier one.
    before = next_second()
    if late:
        push()
        return release.judge(pushedAt=before, **request).verdict()
    judgement = release.judge(pushedAt=before, **request)
    assert judgement.next_answer()["status"] == "pending", judgement.last
    push()
    return judgement.verdict()


def install(cluster, helm, name, late):
    release = Release(cluster, helm, name)
    answer = pushed(release, late, release.install)
    ended(answer, "succeeded", "Deployed", "1.0.0", 1)


def upgrade(cluster, helm, name, late):
    release = installed(cluster, helm, name)
    ended(pushed(release, late, release.upgrade), "succeeded", "Deployed", "1.1.0", 2)


def upgrade_as_expected(cluster, helm, name, late):
    release = installed(cluster, helm, name)
    expect = {"chartVersion": "1.1.0", "appVersion": "2026.1.1.0", "values": {"/text": "new"}}
    answer = pushed(release, late, lambda: release.upgrade("1.1.0", "--set=text=new"), expect=expect)
    ended(answer, "succeeded", "Deployed", "1.1.0", 2)
    assert answer["evidence"] == "expected"


def another_version_than_expected(cluster, helm, name, late):
    release = installed(cluster, helm, name)
    answer = pushed(release, late, release.upgrade, expect={"chartVersion": "1.2.0"}, timeout=15)
    ended(answer, "failed", "Timeout", "1.1.0", last="OtherVersion")


def values_only_upgrade(cluster, helm, name, late):
    release = installed(cluster, helm, name)
    answer = pushed(release, late, lambda: release.upgrade("1.0.0", "--set=text=new"))
    ended(answer, "succeeded", "Deployed", "1.0.0", 2)


def upgrade_rejected_by_the_api_server(cluster, helm, name, late):
    release = installed(cluster, helm, name)
    answer = pushed(release, late, lambda: release.upgrade("1.1.0", "--set=rejected=true", fails=True))
    ended(answer, "failed", "UpgradeFailed", revision=2)
    assert "99999" in answer["message"], answer["message"]


def upgrade_times_out(cluster, helm, name, late):
    release = installed(cluster, helm, name)
    ended(pushed(release, late, lambda: release.upgrade("1.1.0", *UNAVAILABLE, fails=True)), "failed", "UpgradeFailed")


def hook_fails(cluster, helm, name, late):
    release = installed(cluster, helm, name)
    push = lambda: release.upgrade("1.1.0", "--set=hook=true", "--timeout=3s", fails=True)  # noqa: E731
    answer = pushed(release, late, push)
    ended(answer, "failed", "UpgradeFailed")
    assert "hook" in answer["message"], answer["message"]


def first_install_fails(cluster, helm, name, late):
    release = Release(cluster, helm, name)
    ended(pushed(release, late, lambda: release.install("1.0.0", *UNAVAILABLE, fails=True)), "failed", "InstallFailed")


def failed_release_is_mended(cluster, helm, name, late):
    release = installed(cluster, helm, name)
    release.upgrade("1.1.0", "--set=rejected=true", fails=True)
    ended(pushed(release, late, release.upgrade), "succeeded", "Deployed", "1.1.0", 3)


def upgrade_fails_and_is_rolled_back(cluster, helm, name, late):
    release = installed(cluster, helm, name)
    atomic = "--atomic" if release.major == 3 else "--rollback-on-failure"
    answer = pushed(release, late, lambda: release.upgrade("1.1.0", *UNAVAILABLE, atomic, fails=True))
    ended(answer, "failed", "RolledBack")


def atomic_first_install_removes_itself(cluster, helm, name, late):
    release = Release(cluster, helm, name)
    atomic = "--atomic" if release.major == 3 else "--rollback-on-failure"
    before = next_second()
    judgement = release.judge(pushedAt=before, timeout=90)
    judgement.next_answer()
    # Long enough that a check sees it on its way.
    release.install("1.0.0", "--set=deployment=true", "--wait", "--timeout=12s", atomic, fails=True)
    answer = judgement.verdict()
    # It is gone in the end; a check may also meet the moment in which it is failed, or being uninstalled.
    assert answer["status"] == "failed", answer["message"]
    assert answer["reason"] in ("Removed", "InstallFailed", "Uninstalled"), answer["message"]


def rolled_back_by_hand(cluster, helm, name, late):
    release = upgraded(cluster, helm, name)
    ended(pushed(release, late, lambda: release.rollback(1)), "failed", "RolledBack", revision=3)


def rolled_back_by_hand_as_expected(cluster, helm, name, late):
    release = upgraded(cluster, helm, name)
    answer = pushed(release, late, lambda: release.rollback(1), expect={"chartVersion": "1.0.0"})
    ended(answer, "succeeded", "Deployed", "1.0.0", 3)


def killed_midway(cluster, helm, name, late):
    release = installed(cluster, helm, name)
    answer = pushed(release, late, lambda: release.upgrade_killed(2), timeout=15)
    ended(answer, "failed", "Timeout", last="Progressing")
    # Helm refuses to work over it, and leaves no trace of that. (`Locked` is for a lock of more than 15 minutes.)
    before = next_second()
    release.upgrade("1.1.0", fails=True)
    answer = release.judge("-locked", pushedAt=before, timeout=15).verdict()
    ended(answer, "failed", "Timeout", last="WaitingForChange")


def fails_before_the_first_write(cluster, helm, name, late):
    release = installed(cluster, helm, name)
    push = lambda: release.upgrade("1.1.0", "--set=broken=true", fails=True)  # noqa: E731
    ended(pushed(release, late, push, timeout=15), "failed", "Timeout", last="WaitingForChange")


def uninstalled(cluster, helm, name, late):
    release = installed(cluster, helm, name)
    ended(pushed(release, late, release.uninstall, timeout=15), "failed", "Timeout", last="NotFound")


def uninstalled_and_kept(cluster, helm, name, late):
    release = installed(cluster, helm, name)
    push = lambda: release.uninstall("--keep-history")  # noqa: E731
    ended(pushed(release, late, push, timeout=15), "failed", "Timeout", last="WaitingForChange")


def old_revisions_are_pruned(cluster, helm, name, late):
    release = installed(cluster, helm, name)
    for number in range(2, 12):
        release.upgrade("1.0.0", f"--set=text={number}")
    ended(pushed(release, late, release.upgrade), "succeeded", "Deployed", "1.1.0", 12)


def large_values(cluster, helm, name, late):
    release = installed(cluster, helm, name)
    values = cluster.folder / f"{name}.json"
    # Random, so that packing spares nothing: Helm's secret has about 500 KiB then.
    values.write_text(json.dumps({"ballast": base64.b64encode(os.urandom(370 * 1024)).decode(), "text": "new"}))
    push = lambda: release.upgrade("1.1.0", f"--values={values}")  # noqa: E731
    answer = pushed(release, late, push, expect={"values": {"/text": "new"}})
    ended(answer, "succeeded", "Deployed", "1.1.0", 2)


def nothing_happens(cluster, helm, name, late):
    release = installed(cluster, helm, name)
    answer = pushed(release, late, lambda: None, timeout=15)
    ended(answer, "failed", "Timeout", last="WaitingForChange")


def installed(cluster, helm, name) -> Release:
    release = Release(cluster, helm, name)
    release.install()
    return release


def upgraded(cluster, helm, name) -> Release:
    release = installed(cluster, helm, name)
    release.upgrade()
    return release


SCENARIOS = (
    install, upgrade, upgrade_as_expected, another_version_than_expected, values_only_upgrade,
    upgrade_rejected_by_the_api_server, upgrade_times_out, hook_fails, first_install_fails, failed_release_is_mended,
    upgrade_fails_and_is_rolled_back, atomic_first_install_removes_itself, rolled_back_by_hand,
    rolled_back_by_hand_as_expected, killed_midway, fails_before_the_first_write, uninstalled,
    uninstalled_and_kept, old_revisions_are_pruned, large_values, nothing_happens,
)


def cases():
    """Each scenario with both; one of them is looked at before the push, the other after it, by turns."""
    for number, scenario in enumerate(SCENARIOS):
        for helm in HELMS:
            late = (number + HELMS.index(helm)) % 2 == 1
            name = f"{helm}-{scenario.__name__.replace('_', '-')}"[:53]
            run = functools.partial(call, scenario, helm, name, late)
            yield pytest.param(run, id=f"{helm}-{scenario.__name__}-{'late' if late else 'early'}")


def call(scenario, helm, name, late, cluster):
    scenario(cluster, helm, name, late)


@pytest.mark.scenario("cluster")
@pytest.mark.parametrize("scenario", list(cases()))
def test_helm(scenario, outcome):
    outcome()
