//! A warm process, a deployment in which nothing changes: what most polls are.

use std::time::Duration;

use crate::{
    Binaries, allocations, decision,
    money::Counted,
    table::{Row, Sample, Table, Unit},
    tools::Tool,
    world::{Cost, NAMESPACE, ROUND_TRIP, World, event, one},
};

const POLLS: usize = 100;
const TOOL_POLLS: usize = 10;

pub(crate) fn flux_path(release: &str) -> String {
    format!("/apis/helm.toolkit.fluxcd.io/v2/namespaces/{NAMESPACE}/helmreleases/{release}")
}

pub(crate) async fn measure(table: &mut Table, binaries: &Binaries, counted: &mut Counted) {
    let world = World::start(1, &testkit::Config::default()).await;
    world.settle(0, "flux/chart-upgrade", "checkout");
    world.settle(0, "helm/helm3-upgrade", "plain");
    let (ours, bare) = (event("hot-flux", "flux", &one("checkout")), flux_path("checkout"));
    let bare = world.bare_event("hot-flux", &bare);
    let check = world.start_process(&binaries.check).await;
    let other = world.start_process(&binaries.bare).await;
    // The first poll writes the baseline, and either process makes its connections.
    for _ in 0..3 {
        world.invoke(&check, &ours).await;
        world.invoke(&other, &bare).await;
    }

    table.heading("Warm pending poll, one target, nothing changed");
    let (mut times, mut costs) = (Pair::new(Unit::Millis), Vec::new());
    let logged = check.log_bytes();
    let busy = (check.processor(), other.processor());
    for _ in 0..POLLS {
        let (answered, cost) = world.invoke(&check, &ours).await;
        assert_eq!(answered.answer["status"], "pending", "{}", answered.answer);
        let (bare_answered, bare_cost) = world.invoke(&other, &bare).await;
        times.ours.add_time(answered.took());
        times.theirs.add_time(bare_answered.took());
        costs.push((cost, bare_cost));
    }
    counted.log_bytes = (check.log_bytes() - logged) as f64 / POLLS as f64;
    counted.item_bytes = world.aws.item_bytes("hot-flux") as f64;
    let each = |total: Duration| Sample::of(Unit::Millis, [total.as_secs_f64() * 1000.0 / POLLS as f64]);
    let busy = (each(check.processor() - busy.0), each(other.processor() - busy.1));

    let of = |unit, what: fn(&Cost) -> f64| {
        let ours = Sample::of(unit, costs.iter().map(|it| what(&it.0)));
        (ours, Sample::of(unit, costs.iter().map(|it| what(&it.1))))
    };
    let (gets, theirs) = of(Unit::Count, |it| it.requests("GetItem") + it.requests("PutItem"));
    counted.reads = gets.median();
    table.add(Row::new("DynamoDB requests", &gets).against("bare handler", &theirs).worst_at_most(1.0, "1"));
    let (asked, theirs) = of(Unit::Count, |it| it.kubernetes as f64);
    table.add(
        Row::new("Kubernetes requests", &asked).against("bare handler", &theirs).worst_at_most(1.0, "1"),
    );
    let (secrets, _) = of(Unit::Count, |it| it.requests("GetSecretValue"));
    table.add(Row::new("Secrets Manager requests", &secrets).worst_at_most(0.0, "0"));
    let (handshakes, _) = of(Unit::Count, |it| (it.handshakes + it.resumed) as f64);
    table.add(Row::new("TLS handshakes", &handshakes).worst_at_most(0.0, "0"));
    for (what, bytes) in [
        ("bytes to AWS, encrypted", of(Unit::Bytes, |it| it.aws_wire.up as f64)),
        ("bytes from AWS, encrypted", of(Unit::Bytes, |it| it.aws_wire.down as f64)),
        ("bytes to the cluster, encrypted", of(Unit::Bytes, |it| it.cluster_wire.up as f64)),
        ("bytes from the cluster, encrypted", of(Unit::Bytes, |it| it.cluster_wire.down as f64)),
    ] {
        table.add(Row::new(what, &bytes.0).against("bare handler", &bytes.1));
    }
    table.add(Row::new("time without delay", &times.ours).against("bare handler", &times.theirs));
    table.add(Row::new("processor time", &busy.0).against("bare handler", &busy.1));

    world.set_round_trip(ROUND_TRIP);
    let mut times = Pair::new(Unit::Millis);
    for _ in 0..POLLS {
        times.ours.add_time(world.invoke(&check, &ours).await.0.took());
        times.theirs.add_time(world.invoke(&other, &bare).await.0.took());
    }
    let row = Row::new("time, 20 ms on every round trip", &times.ours).against("bare handler", &times.theirs);
    table.add(row.median_at_most(25.0, "≤ 25 ms"));
    with_tools(table, &world, &times.ours).await;

    world.set_round_trip(Duration::ZERO);
    allocations::measure(table, &world).await;
    decision::measure(table);
}

/// What a shell script would do instead, once per poll.
async fn with_tools(table: &mut Table, world: &World, ours: &Sample) {
    for tool in [Tool::kubectl(&flux_path("checkout")), Tool::helm("plain")] {
        let what = format!("`{}` once per poll, 20 ms on every round trip", tool.name());
        match tool.measure(&world.clusters[0], TOOL_POLLS).await {
            Ok(times) => table.add(Row::new(what, &times).against("ours", ours)),
            Err(why) => table.add(Row::skipped(what, &why)),
        }
    }
}

/// Ours and the baseline's, measured in turn.
pub(crate) struct Pair {
    pub(crate) ours: Sample,
    pub(crate) theirs: Sample,
}

impl Pair {
    pub(crate) fn new(unit: Unit) -> Self {
        Self { ours: Sample::new(unit), theirs: Sample::new(unit) }
    }
}
