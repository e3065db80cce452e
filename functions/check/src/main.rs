//! The check function's process: configuration, clients, ports, run.

use std::sync::Arc;

use aws::{Aws, Config};
use kubernetes::{AddressPolicy, KubernetesClient};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use monitor::{
    check::{CheckPorts, Checker, Settings},
    ports::SystemClock,
};
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let config = Config::from_env()?;
    aws::logging::init(&config.log);
    let aws = Aws::new(&config.access);
    let policy = AddressPolicy::parse(config.allowed_api_server_cidrs.as_deref().unwrap_or_default())?;
    let registry = Arc::new(aws.registry(&config.registry_table));
    let ports = CheckPorts {
        deployments: Arc::new(aws.deployments(&config.deployments_table)),
        registry: registry.clone(),
        environments: registry,
        // It only reads: with which key something is written is not its to know.
        vault: Arc::new(aws.vault(&config.secret_prefix, None)),
        eks: Arc::new(aws.eks(&config.eks_role_arns, config.eks_external_id.as_deref())),
        clusters: Arc::new(KubernetesClient::new(policy)?),
        events: Arc::new(aws.events(&config.event_bus)),
        metrics: Arc::new(aws.metrics(&config.stack_name)),
        clock: Arc::new(SystemClock),
    };
    let settings = Settings {
        default_timeout_secs: config.timeout_secs,
        record_ttl_days: config.record_ttl_days,
        ..Settings::default()
    };
    let checker = Checker::new(ports, settings);
    lambda_runtime::run(service_fn(|event: LambdaEvent<Value>| check::handle(&checker, event.payload))).await
}
