//! Allocations of a warm poll, counted in a process of its own, on the one thread
//! that a function has.

use std::{process::Command, sync::Arc};

use allocation_counter::AllocationInfo;
use aws::{Aws, Config};
use kubernetes::{AddressPolicy, KubernetesClient};
use monitor::{
    check::{CheckPorts, Checker, Settings},
    ports::SystemClock,
};
use serde_json::{Value, json};

use crate::{
    table::{Row, Sample, Table, Unit},
    world::{World, event, one},
};

const POLLS: usize = 100;

pub(crate) async fn measure(table: &mut Table, world: &World) {
    for (helm_type, release) in [("flux", "checkout"), ("plain", "plain")] {
        let event = event(&format!("allocations-{helm_type}"), helm_type, &one(release));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("--allocations").arg(event.to_string()).envs(world.variables());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        // The lines before it are the polls' own, their metrics.
        let text = String::from_utf8_lossy(&output.stdout);
        let counted = text.lines().last().unwrap_or_default();
        let counted: Vec<Value> = serde_json::from_str(counted).unwrap_or_else(|error| {
            panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
        });
        let of = |unit, name: &str| Sample::of(unit, counted.iter().map(|it| it[name].as_f64().unwrap()));
        table.add(Row::new(format!("allocations, {helm_type}"), &of(Unit::Count, "count")));
        table.add(Row::new(format!("bytes allocated, {helm_type}"), &of(Unit::Bytes, "bytes")));
        table.add(Row::new(format!("at most at once, {helm_type}"), &of(Unit::Bytes, "peak")));
    }
}

/// The check function without Lambda's runtime around it: event in, answer out, both as JSON text.
pub(crate) fn child(event: &str) {
    let config = Config::from_env().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let aws = Aws::new(&config.access);
    let registry = Arc::new(aws.registry(&config.registry_table));
    let policy = AddressPolicy::parse(config.allowed_api_server_cidrs.as_deref().unwrap_or_default());
    let checker = Checker::new(
        CheckPorts {
            deployments: Arc::new(aws.deployments(&config.deployments_table)),
            registry: registry.clone(),
            environments: registry,
            vault: Arc::new(aws.vault(&config.secret_prefix, None)),
            eks: Arc::new(aws.eks(&[], None)),
            clusters: Arc::new(KubernetesClient::new(policy.unwrap()).unwrap()),
            events: Arc::new(aws.events(&config.event_bus)),
            metrics: Arc::new(aws.metrics(&config.stack_name)),
            clock: Arc::new(SystemClock),
        },
        Settings::default(),
    );
    let poll = || {
        let event: Value = serde_json::from_str(event).unwrap();
        let answer = runtime.block_on(check::handle(&checker, event)).unwrap();
        serde_json::to_vec(&answer).unwrap()
    };
    for _ in 0..3 {
        poll();
    }
    let counted: Vec<Value> = (0..POLLS)
        .map(|_| {
            let AllocationInfo { count_total, bytes_total, bytes_max, .. } =
                allocation_counter::measure(|| {
                    poll();
                });
            json!({ "count": count_total, "bytes": bytes_total, "peak": bytes_max })
        })
        .collect();
    println!("{}", Value::from(counted));
}
