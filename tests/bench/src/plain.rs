//! Plain Helm at size: ten revisions whose payloads are large.

use std::{
    io::Read as _,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use kubernetes::{AddressPolicy, KubernetesClient};
use monitor::ports::{Clusters as _, Credentials};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use testkit::{Config, release_payload, release_secret};
use verdict::Payload;

use crate::{
    Binaries,
    hot::Pair,
    table::{Row, Sample, Table, Unit},
    world::{Cluster, NAMESPACE, ROUND_TRIP, World, event, one},
};

const POLLS: usize = 20;
/// Listing whole takes long, and varies little.
const POLLS_A_LIST: usize = 4;
const RELEASE: &str = "large";
pub(crate) const REVISIONS: u32 = 10;

pub(crate) async fn measure(table: &mut Table, binaries: &Binaries) {
    for (kib, gzip) in [(200, false), (200, true), (1024, false), (1024, true)] {
        let config = Config { gzip_above: gzip.then_some(128 * 1024), ..Config::default() };
        let world = World::start(1, &config).await;
        put_release(&world.clusters[0], RELEASE, kib);
        let words = if gzip { "gzip on the wire" } else { "no gzip" };
        table.heading(&format!("Plain mode, {REVISIONS} revisions of {kib} KiB, {words}"));
        polls(table, &world, binaries, kib).await;
        verdicts(table, &world, binaries).await;
        if !gzip {
            decoding(table, &world).await;
        }
    }
}

/// A settled release. Helm's payload is gzip in base64 of about this size; its content does not repeat.
pub(crate) fn put_release(cluster: &Cluster, release: &str, kib: usize) {
    let payload = release_payload(&json!({
        "name": release, "namespace": NAMESPACE, "version": REVISIONS,
        "info": {"status": "deployed", "description": "Upgrade complete"},
        "chart": {
            "metadata": {"name": release, "version": "1.4.0", "appVersion": "1"},
            "templates": [{"name": "templates/all.yaml", "data": noise(kib * 1024)}],
        },
        "config": {"image": {"tag": "1"}},
    }));
    let created = Timestamp::now() - jiff::SignedDuration::from_hours(24);
    let secrets = (1..=REVISIONS).map(|revision| {
        let status = if revision == REVISIONS { "deployed" } else { "superseded" };
        let mut secret = release_secret(NAMESPACE, release, revision, status, created, None);
        secret["data"] = json!({ "release": payload });
        secret
    });
    cluster.simulated.put_secrets(NAMESPACE, release, secrets.collect());
}

/// Text that can't be packed, but for being text.
fn noise(bytes: usize) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let random = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    STANDARD.encode(random.flatten().take(bytes / 4 * 3).collect::<Vec<u8>>())
}

async fn polls(table: &mut Table, world: &World, binaries: &Binaries, kib: usize) {
    let cluster = &world.clusters[0];
    let check = world.start_process(&binaries.check).await;
    let lister = Lister::new(&cluster.credentials());
    let ours = event("large", "plain", &one(RELEASE));
    for _ in 0..2 {
        world.invoke(&check, &ours).await;
        lister.list().await;
    }
    let mut bytes = Pair::new(Unit::Bytes);
    for (words, round_trip) in [("without delay", Duration::ZERO), ("20 ms on every round trip", ROUND_TRIP)]
    {
        world.set_round_trip(round_trip);
        let mut times = Pair::new(Unit::Millis);
        for poll in 0..POLLS {
            let (answered, cost) = world.invoke(&check, &ours).await;
            assert_eq!(answered.answer["status"], "pending", "{}", answered.answer);
            times.ours.add_time(answered.took());
            bytes.ours.add(cost.cluster_wire.down as f64);
            if poll % POLLS_A_LIST != 0 {
                continue;
            }
            let before = cluster.passed();
            let began = Instant::now();
            assert_eq!(lister.list().await, REVISIONS as usize);
            times.theirs.add_time(began.elapsed());
            bytes.theirs.add((cluster.passed() - before).down as f64);
        }
        if round_trip.is_zero() {
            let row =
                Row::new("bytes from the cluster a poll", &bytes.ours).against("listed whole", &bytes.theirs);
            table.add(if kib == 200 { row.ratio_at_most(0.02, "≤ 1/50") } else { row });
        }
        table.add(
            Row::new(format!("time of a poll, {words}"), &times.ours).against("listed whole", &times.theirs),
        );
    }
    world.set_round_trip(Duration::ZERO);
}

/// The poll that says it: the list, and one payload.
async fn verdicts(table: &mut Table, world: &World, binaries: &Binaries) {
    let check = world.start_process(&binaries.check).await;
    let (mut times, mut bytes) = (Sample::new(Unit::Millis), Sample::new(Unit::Bytes));
    for number in 0..POLLS {
        let mut event = event(&format!("verdict-{number}"), "plain", &one(RELEASE));
        event["allowUnchanged"] = json!(true);
        let (answered, cost) = world.invoke(&check, &event).await;
        assert_eq!(answered.answer["status"], "succeeded", "{}", answered.answer);
        // The first one makes the connections, and is somebody else's to count.
        if number > 0 {
            times.add_time(answered.took());
            bytes.add(cost.cluster_wire.down as f64);
        }
    }
    table.add(Row::new("first poll that says the verdict: bytes from the cluster", &bytes));
    table.add(Row::new("first poll that says the verdict: time, without delay", &times));
    table.add(Row::new(
        "its process: peak memory",
        &Sample::of(Unit::Mebibytes, [check.peak_kib() as f64 / 1024.0]),
    ));
}

/// A payload, fetched and read: in a stream, and as one piece after the other.
async fn decoding(table: &mut Table, world: &World) {
    let credentials = world.clusters[0].credentials();
    let measured = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = KubernetesClient::new(AddressPolicy::parse("127.0.0.1/32").unwrap()).unwrap();
        let secret = format!("sh.helm.release.v1.{RELEASE}.v{REVISIONS}");
        let lister = Lister::new(&credentials);
        let (mut times, mut peaks) = (Pair::new(Unit::Millis), Pair::new(Unit::Bytes));
        for round in 0..=POLLS {
            let streamed = || {
                let came = runtime.block_on(client.payload(&credentials, NAMESPACE, &secret)).unwrap();
                assert!(matches!(came.value, Payload::Read(_)), "{:?}", came.value);
            };
            let whole = || runtime.block_on(lister.payload(&secret));
            let began = Instant::now();
            let ours = allocation_counter::measure(streamed).bytes_max;
            let between = Instant::now();
            let theirs = allocation_counter::measure(whole).bytes_max;
            if round > 0 {
                times.ours.add_time(between - began);
                times.theirs.add_time(between.elapsed());
                peaks.ours.add(ours as f64);
                peaks.theirs.add(theirs as f64);
            }
        }
        (times, peaks)
    });
    let (times, peaks) = measured.await.unwrap();
    table.add(
        Row::new("a payload in a stream: memory allocated at once", &peaks.ours)
            .against("decoded whole", &peaks.theirs),
    );
    table.add(Row::new("a payload in a stream: time", &times.ours).against("decoded whole", &times.theirs));
}

/// A check that lists the secrets whole, as `helm` does: no more than asking and
/// reading the JSON.
struct Lister {
    client: reqwest::Client,
    base: String,
    token: String,
}

impl Lister {
    fn new(credentials: &Credentials) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(credentials.ca_cert.as_deref().unwrap().as_bytes())
        {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
        let token = credentials.token.expose_secret().to_owned();
        Self { client, base: format!("{}/api/v1/namespaces/{NAMESPACE}/secrets", credentials.api_url), token }
    }

    async fn get(&self, query: &str) -> Value {
        let request = self.client.get(format!("{}?{query}", self.base)).bearer_auth(&self.token);
        let bytes = request.send().await.unwrap().error_for_status().unwrap().bytes().await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    async fn list(&self) -> usize {
        let list = self.get(&format!("labelSelector=owner%3Dhelm%2Cname%3D{RELEASE}")).await;
        list["items"].as_array().unwrap().len()
    }

    async fn payload(&self, secret: &str) {
        let list =
            self.get(&format!("labelSelector=owner%3Dhelm&fieldSelector=metadata.name%3D{secret}")).await;
        let data = STANDARD.decode(list["items"][0]["data"]["release"].as_str().unwrap()).unwrap();
        let mut json = Vec::new();
        let packed = STANDARD.decode(data).unwrap();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut json).unwrap();
        let release: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(release["info"]["status"], "deployed");
    }
}
