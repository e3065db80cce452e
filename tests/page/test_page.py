"""What somebody sees who keeps the page open."""

import base64
import json
import re
import shlex
import time
import urllib.request

from playwright.sync_api import expect

from conftest import PATIENCE_MS

expect.set_options(timeout=PATIENCE_MS)

DESKTOP = {"viewport": {"width": 1280, "height": 800}}
PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
# What a browser itself says of a server that does not answer.
UNANSWERED = re.compile(r"Failed to load resource: (net::ERR_|the server responded with a status of 401)")


def targets(*releases, cluster="Prod EU"):
    return [{"cluster": cluster, "namespace": "e2e", "release": release} for release in releases]


def near_its_end(cluster) -> str:
    """A token that ends in twelve days, which is let in."""
    claims = {"exp": int(time.time()) + 12 * 86400 + 3600, "sub": "system:serviceaccount:dag-monitor:dag-monitor"}
    parts = [json.dumps(it).encode() for it in ({"alg": "RS256"}, claims)] + [b"signed"]
    token = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
    cluster.accept(cluster.token, token)
    return token


def hostile_release() -> dict:
    return {
        "apiVersion": "helm.toolkit.fluxcd.io/v2", "kind": "HelmRelease",
        "metadata": {"name": "hostile", "namespace": "e2e", "generation": 2, "uid": "8a0a5b8e-hostile"},
        "status": {
            "observedGeneration": 2,
            "conditions": [{
                "type": "Ready", "status": "False", "reason": "UpgradeFailed", "message": f"Helm said: {HOSTILE}",
                "lastTransitionTime": "2026-11-23T19:46:23Z", "observedGeneration": 2,
            }],
            "history": [{
                "name": "hostile", "namespace": "e2e", "version": 3, "status": "failed",
                "chartName": "shop", "chartVersion": HOSTILE[:60], "digest": "sha256:0",
            }],
        },
    }


def deployment(tab, name):
    return tab.page.locator(f"#deployments > li[data-key={json.dumps(name)}]")


def is_sound(tab, server, *, unanswered=False):
    """Nothing went wrong that nobody sees, nobody else was asked, and no hostile text was run."""
    errors = [it for it in tab.errors if not (unanswered and UNANSWERED.search(it))]
    assert not errors, errors
    assert all(url.startswith((server.url + "/", "data:")) for url in tab.asked), tab.asked
    assert "taken" not in tab.page.title()
    assert tab.page.locator("main img, main script").count() == 0


def does_not_scroll_sideways(tab):
    wide, seen = tab.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= seen, (wide, seen)


# The least contrast that WCAG 2.2 asks for between a text and its ground (1.4.3).
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const pixel = (color) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = (color) => { const [r, g, b] = pixel(color).map((it) => { const c = it / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = (it) => { for (; it; it = it.parentElement) { const color = getComputedStyle(it).backgroundColor;
    if (pixel(color)[3] === 255) return color; } return "white"; };
  const faint = [];
  for (const it of document.querySelectorAll("body *")) {
    const own = [...it.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !it.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
    const [a, b] = [light(getComputedStyle(it).color), light(ground(it))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) faint.push(`${it.className || it.tagName} ${ratio.toFixed(2)}: ${it.textContent.slice(0, 40)}`);
  }
  return faint;
}"""


def can_be_read(tab):
    assert tab.page.evaluate(CONTRAST) == []


def test_deployments_are_shown_live_and_outlast_a_kill(serve, tab, cluster, tmp_path):
    server = serve(tmp_path / "kept", "--allow-cidr", "127.0.0.1/32")
    desk = tab(server.link, **DESKTOP)
    page = desk.page
    expect(page.locator("#link")).to_have_text("live")
    assert page.url == f"{server.url}/", "the key stays in no address bar"
    assert page.evaluate("history.length") <= 2 and server.key not in page.content()
    expect(page.get_by_text("None was started yet")).to_be_visible()
    expect(page.get_by_text("None is registered yet")).to_be_visible()

    server.register("Prod EU", cluster)
    cluster.allow({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]})
    server.call("POST", "/clusters", {
        "name": f"Prod US {HOSTILE}"[:100], "apiUrl": cluster.api_url, "serviceAccountToken": near_its_end(cluster),
        "caCert": cluster.ca_cert, "namespaces": ["e2e", "team-*"],
    })
    server.call("POST", "/clusters?probe=false", {
        "name": "Staging", "apiUrl": "https://127.0.0.1:9", "serviceAccountToken": "a-token-that-nobody-asked", "caCert": cluster.ca_cert,
    })
    clusters = page.locator("#clusters > li")
    expect(clusters).to_have_count(3)
    expect(clusters.nth(0)).to_contain_text("Prod EU")
    expect(clusters.nth(0).locator(".badge")).to_have_text("reached")
    expect(clusters.nth(0)).to_contain_text(cluster.api_url)
    expect(clusters.nth(0)).to_contain_text("Kubernetes v1.36.3")
    expect(clusters.nth(1).locator("h3")).to_have_text(f"Prod US {HOSTILE}"[:100])
    expect(clusters.nth(1)).to_contain_text(re.compile(r"token\s*ends \d{4}-\d\d-\d\d, in 12 days"))
    expect(clusters.nth(1)).to_contain_text("e2e, team-*")
    expect(clusters.nth(1).locator(".warning").first).to_be_visible()
    expect(clusters.nth(2).locator(".badge")).to_have_text("not asked yet")

    cluster.put("hostile", hostile_release())
    pushed = cluster.play("flux/chart-upgrade", "checkout", 5000)
    cluster.play("flux/upgrade-rejected-by-api-server", "payments", 5000)
    cluster.play("flux/waits-for-dependency", "search", 1000)
    flux = {"helmType": "flux", "pushedAt": pushed}
    waits = server.deploy("search-7", targets=targets("search"), timeoutSecs=900, **flux)
    server.deploy("many-3", app="shop", environment="everywhere", timeoutSecs=900, **flux, targets=[
        *targets("checkout", "payments", "search"), *targets("checkout", cluster="Staging"),
    ])
    server.deploy("hostile-1", targets=targets("hostile"), allowUnchanged=True, timeoutSecs=900, helmType="flux")
    server.deploy("payments-12", app="payments", environment="production", targets=targets("payments"), **flux)
    server.deploy(
        "checkout-4711", app="checkout", environment="production", targets=targets("checkout"),
        expect={"chartVersion": "1.1.0"}, **flux,
    )

    # Newest first; those that run are open and say how long they wait.
    expect(page.locator("#deployments > li")).to_have_count(5)
    expect(page.locator("#deployments > li").first).to_contain_text("checkout-4711")
    checkout = deployment(desk, "checkout-4711")
    expect(checkout.locator("summary .badge")).to_have_text("pending")
    expect(checkout.locator("summary .time")).to_have_text(re.compile(r"^0:\d\d · [45]:\d\d left$"))
    expect(checkout.locator("summary h3")).to_have_text(re.compile("checkout → production"))
    expect(checkout.locator(".target .place")).to_have_text("Prod EU/e2e/checkout")
    expect(checkout.locator("details")).to_have_attribute("open", "")
    desk.picture("desktop-running")

    # The verdicts come without anybody's doing; what has ended collapses, and still says why.
    expect(checkout.locator("summary .badge")).to_have_text("succeeded")
    expect(checkout.locator("details")).not_to_have_attribute("open", "")
    expect(checkout.locator("summary .says")).to_contain_text("UpgradeSucceeded · ")
    expect(checkout.locator("summary .time")).to_contain_text(" · a moment ago")
    assert not checkout.locator(".target").is_visible()
    payments = deployment(desk, "payments-12")
    expect(payments.locator("summary .badge")).to_have_text("failed")
    expect(payments.locator("summary .says")).to_contain_text("UpgradeFailed · ")
    expect(page.locator("#news")).to_have_text(re.compile("(checkout-4711 succeeded|payments-12 failed): "))
    # By the keyboard: it opens, and stays open though it is drawn anew.
    checkout.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(checkout.locator(".target .note")).to_contain_text("flux · chart 1.1.0")
    expect(checkout.locator(".target .badge")).to_have_text("succeeded")
    search = deployment(desk, "search-7")
    expect(search.locator("summary .badge")).to_have_text("pending")
    expect(search.locator("summary .says")).to_contain_text("DependencyNotReady")
    expect(page).to_have_title(re.compile(r"^\d pending · dag-monitor$"))
    # What a cluster says is text.
    hostile = deployment(desk, "hostile-1")
    expect(hostile.locator("summary .says")).to_contain_text(HOSTILE)
    can_be_read(desk)
    is_sound(desk, server)
    does_not_scroll_sideways(desk)
    desk.picture("desktop")

    # Whoever comes later, by another device, in the dark.
    phone = tab(server.link, color_scheme="dark", **PHONE)
    expect(deployment(phone, "checkout-4711").locator("summary .badge")).to_have_text("succeeded")
    can_be_read(phone)
    does_not_scroll_sideways(phone)
    phone.picture("phone-dark", whole=False)
    phone.page.emulate_media(color_scheme="light")
    deployment(phone, "many-3").evaluate("it => it.scrollIntoView()")
    can_be_read(phone)
    phone.picture("phone-scrolled", whole=False)
    phone.picture("phone")
    is_sound(phone, server)
    desk.page.emulate_media(color_scheme="dark")
    can_be_read(desk)
    desk.picture("desktop-dark")

    # Killed, it is missed; what was seen stays to be read. Started again, all of it goes on.
    server.kill()
    expect(page.locator("#link")).to_have_text("connection lost, trying again")
    expect(checkout.locator("summary .badge")).to_have_text("succeeded")
    desk.page.emulate_media(color_scheme="light")
    can_be_read(desk)
    desk.picture("desktop-lost", whole=False)
    server.start()
    expect(page.locator("#link")).to_have_text("live")
    expect(search.locator("summary .badge")).to_have_text("pending")
    expect(checkout.locator("details")).to_have_attribute("open", "")
    assert server.call("GET", "/deployments/search-7")["deadline"] == waits["deadline"]
    expect(clusters).to_have_count(3)
    is_sound(desk, server, unanswered=True)


def test_only_the_key_opens_it(serve, tab, tmp_path):
    server = serve(tmp_path / "kept")
    locked = tab(server.url, **PHONE)
    page = locked.page
    gate = page.get_by_label("The key of this server")
    expect(gate).to_be_focused()
    expect(page.locator("#board")).to_be_hidden()
    for wrong, told in [("wrong", "not the key"), (server.key[:-1], "not the key"), ("two words", "letters")]:
        gate.fill(wrong)
        page.keyboard.press("Enter")
        expect(page.locator("#refused")).to_contain_text(told)
        expect(gate).to_have_value("")
    can_be_read(locked)
    does_not_scroll_sideways(locked)
    locked.picture("key")
    gate.fill(f" {server.key} ")
    page.get_by_role("button", name="Open").click()
    expect(page.locator("#link")).to_have_text("live")
    expect(gate).to_be_hidden()
    assert server.key not in page.content()

    # It is kept in this tab, and in no other.
    page.reload()
    expect(page.locator("#link")).to_have_text("live")
    other = locked.context.new_page()
    other.goto(server.url)
    expect(other.locator("#link")).to_have_text("locked")
    assert locked.context.cookies() == [] and page.evaluate("localStorage.length") == 0

    # A link with another key is another login; that one is void here.
    page.goto(f"{server.url}/#key={'A' * 43}")
    expect(page.locator("#refused")).to_contain_text("not the key")
    assert page.url == f"{server.url}/" and page.evaluate("sessionStorage.length") == 0
    is_sound(locked, server, unanswered=True)


def test_nothing_of_it_can_be_bent(serve, tab, tmp_path):
    server = serve(tmp_path / "kept")
    with urllib.request.urlopen(server.url, timeout=10) as answer:
        policy = answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    bent = tab(server.link, **DESKTOP)
    expect(bent.page.locator("#link")).to_have_text("live")
    is_sound(bent, server)
    # Even where text became elements, they could neither run nor load anything.
    bent.page.evaluate("""() => {
        const made = document.createElement("div");
        made.innerHTML = "<img src='//elsewhere.example/x' onerror='document.title=1'>";
        const script = document.createElement("script");
        script.textContent = "document.title = 'taken'";
        document.body.append(made, script);
        return fetch("http://127.0.0.1:9/").catch(() => null);
    }""")
    assert bent.page.title() == "dag-monitor"
    blocked = [it for it in bent.errors if "Content Security Policy" in it]
    assert len(blocked) >= 3, bent.errors


def test_a_newcomer_tries_it_with_the_simulated_cluster(serve, tab):
    server = serve(None, "--simulated-cluster")
    desk = tab(server.link, **DESKTOP)
    commands = [shlex.split(line) for line in server.rest() if line.startswith("curl ")]
    for curl, url, header, authorization, json_flag, body in commands:
        assert (curl, header, json_flag) == ("curl", "-H", "--json") and url.startswith(server.url)
        name, _, value = authorization.partition(": ")
        request = urllib.request.Request(
            url, data=body.encode(), headers={name: value, "content-type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=30).close()
    expect(desk.page.locator("#clusters .badge")).to_have_text("reached")
    expect(desk.page.locator("#deployments summary .badge")).to_have_text("succeeded")
    # What is there as it asks: before the upgrade or after.
    expect(desk.page.locator("#deployments summary .says")).to_contain_text(re.compile("(Install|Upgrade)Succeeded · "))
    is_sound(desk, server)
