"""A browser, a simulated cluster, and servers as people start them."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

sys.path.append(str(Path(__file__).parents[1] / "e2e"))

from cluster import SimulatedCluster  # noqa: E402

PICTURES = Path(os.environ["PAGE_PICTURES"])
# Nothing takes so long: what does is stuck.
PATIENCE_MS = 20_000
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)


class Server:
    """`dag-monitor serve`, with a store where a folder is given; started again it has the same address."""

    def __init__(self, folder: Path | None, *arguments: str):
        self._folder = folder
        self._arguments = arguments
        self._port = "0"
        self.key = None
        self.start()

    def start(self):
        kept = ["--data-dir", str(self._folder)] if self._folder else []
        self._process = subprocess.Popen(
            [os.environ["PAGE_SERVE"], "serve", "--port", self._port, *kept, *self._arguments],
            stdout=subprocess.PIPE, text=True,
        )
        self.printed = []
        for line in self._process.stdout:
            self.printed.append(line.rstrip("\n"))
            if line.startswith("export DAG_MONITOR_KEY="):
                self.key = line.strip().partition("=")[2]
                break
            if "--new-key makes another." in line:
                break
        self.url = re.search(r"http://[^,\s]+", self.printed[0])[0]
        self._port = self.url.rpartition(":")[2]

    @property
    def link(self) -> str:
        """As it was printed."""
        return next(line for line in self.printed if line.startswith(f"{self.url}/#key="))

    def rest(self) -> list[str]:
        """The lines after the key, up to the last command."""
        lines = []
        for line in self._process.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith("curl ") and "/deployments" in line:
                return lines
        raise RuntimeError(f"it ended: {lines}")

    def call(self, method: str, path: str, body=None) -> dict:
        request = urllib.request.Request(
            self.url + path, method=method, data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {self.key}", "content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {error.code} {error.read().decode()}") from None

    def register(self, name: str, cluster: SimulatedCluster) -> dict:
        return self.call("POST", "/clusters", {
            "name": name, "apiUrl": cluster.api_url, "serviceAccountToken": cluster.token, "caCert": cluster.ca_cert,
        })

    def deploy(self, name: str, **fields) -> dict:
        return self.call("POST", "/deployments", {"deploymentId": name, **fields})

    def kill(self):
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    cluster = SimulatedCluster(os.environ["PAGE_SIMULATED"], folder / "log")
    yield cluster
    cluster.stop()


@pytest.fixture
def serve():
    """Starts servers, and leaves none."""
    servers = []

    def start(folder, *arguments):
        servers.append(Server(folder, *arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["CHROMIUM"], args=QUIET)
        yield browser
        browser.close()


class Watched:
    """A tab, and what it did that nobody sees."""

    def __init__(self, browser, **options):
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(PATIENCE_MS)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.asked: set[str] = set()
        self.page.on("console", lambda it: self.errors.append(it.text) if it.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda it: self.errors.append(str(it)))
        self.page.on("request", lambda it: self.asked.add(it.url))

    def picture(self, name: str, *, whole=True):
        self.page.screenshot(path=PICTURES / f"{name}.png", full_page=whole)


@pytest.fixture
def tab(browser):
    tabs = []

    def open_tab(url, **options):
        tabs.append(Watched(browser, **options))
        tabs[-1].page.goto(url)
        return tabs[-1]

    yield open_tab
    for it in tabs:
        it.context.close()
