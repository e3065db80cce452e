"""One control plane for all; the scenarios of the pool run side by side, each in a thread, and each is a test of its own."""

import os
import shutil
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "e2e"))

from guided import ROOT, Admin, Cluster, Program  # noqa: E402
from control_plane import PROGRAMS, ControlPlane  # noqa: E402
from replayer import Replayer  # noqa: E402

# Most of a scenario is waiting; but Helm's starts are work, and the machine may be small.
SIDE_BY_SIDE = 16


@pytest.fixture(scope="session")
def folder(request):
    """Logs, keys and charts; kept where a test failed."""
    path = Path(tempfile.mkdtemp(prefix="dag-monitor-cluster-"))
    yield path
    if request.session.testsfailed:
        print(f"\nwhat the processes said is in {path}", file=sys.stderr)
    else:
        shutil.rmtree(path)


@pytest.fixture(scope="session")
def cluster(folder):
    """A cluster with the guide's account and Flux's CRD."""
    given = os.environ.get("KUBECONFIG")
    control_plane = None if given else ControlPlane(folder)
    cluster = None
    try:
        if control_plane:
            control_plane.start()
        cluster = Cluster(folder, given or control_plane.kubeconfig, control_plane)
        cluster.refuse_if_in_use()
        for version in ("1.0.0", "1.1.0", "1.2.0"):
            make_chart(folder, version)
        cluster.create("namespace", cluster.namespace)
        cluster.install(PROGRAMS / "helmreleases.yaml")
        cluster.follow_guide()
        yield cluster
    finally:
        # What is made in a control plane of our own goes with it.
        if cluster and given:
            cluster.clean()
        if control_plane:
            control_plane.stop()


@pytest.fixture(scope="session")
def admin(cluster):
    admin = Admin(cluster)
    yield admin
    admin.stop()


@pytest.fixture(scope="session")
def simulated(folder):
    replayer = Replayer(folder / "simulated-cluster.log")
    yield replayer
    replayer.stop()


@pytest.fixture(scope="session")
def pool(cluster, request):
    """The futures of the scenarios that were chosen, by test and parameter."""
    chosen = [it for it in request.session.items if it.get_closest_marker("scenario")]
    threads = ThreadPoolExecutor(SIDE_BY_SIDE)
    try:
        yield {it.nodeid: begin(threads, request, it) for it in chosen}
    finally:
        # Where somebody ended the tests, scenarios are still running: without their monitors they end at once.
        for process in list(Program.running):
            process.kill()
        threads.shutdown(cancel_futures=True)


@pytest.fixture
def alone(request):
    """Lets the scenarios end first."""
    if any(it.get_closest_marker("scenario") for it in request.session.items):
        for future in request.getfixturevalue("pool").values():
            future.exception()


def begin(threads, request, item):
    fixtures = [request.getfixturevalue(name) for name in item.get_closest_marker("scenario").args]
    return threads.submit(item.callspec.params["scenario"], *fixtures)


@pytest.fixture
def outcome(pool, request):
    """Waits for the scenario of this test, and raises what it raised."""
    return pool[request.node.nodeid].result


def pytest_configure(config):
    config.addinivalue_line("markers", "scenario(*fixtures): runs in the pool, with these")
    # Told to end, the tests end as by Ctrl-C: with their control plane.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    # What changes something for everybody comes after all the others have ended.
    items.sort(key=lambda it: not it.get_closest_marker("scenario"))


def make_chart(folder: Path, version: str):
    chart = folder / f"chart-{version}"
    shutil.copytree(ROOT / "tests/cluster/chart", chart)
    text = (chart / "Chart.yaml").read_text().replace("VERSION", version)
    (chart / "Chart.yaml").write_text(text)
