//! The register function: wiring only.

use std::{process::ExitCode, sync::Arc};

use aws::{Aws, RegisterConfig};
use kubernetes::{AddressPolicy, KubernetesClient, Rules};
use lambda_http::{Error, LambdaEvent, lambda_runtime, service_fn};
use monitor::{
    check::{Settings, chain},
    ports::SystemClock,
    register::Registrar,
};
use register::{
    Api,
    events::{Function, handle},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Before there is a configuration there is no log.
            eprintln!("{}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Error> {
    let config = RegisterConfig::from_env()?;
    aws::logging::init(&config.shared.log);
    let function = wire(&config)?;
    lambda_runtime::run(service_fn(|event: LambdaEvent<_>| handle(&function, event))).await
}

fn wire(config: &RegisterConfig) -> Result<Function, Error> {
    let RegisterConfig { shared: config, secret_kms_key_id, state_machine_arn } = config;
    let aws = Aws::new(&config.access);
    let policy = AddressPolicy::parse(config.allowed_api_server_cidrs.as_deref().unwrap_or_default())?;
    let registry = Arc::new(aws.registry(&config.registry_table));
    let registrar = Registrar {
        registry: registry.clone(),
        environments: registry,
        vault: Arc::new(aws.vault(&config.secret_prefix, secret_kms_key_id.as_deref())),
        eks: Arc::new(aws.eks(&config.eks_role_arns, config.eks_external_id.as_deref())),
        prober: Arc::new(KubernetesClient::new(policy.clone())?),
        events: Arc::new(aws.events(&config.event_bus)),
        metrics: Arc::new(aws.metrics(&config.stack_name)),
        rules: Arc::new(Rules::new(policy)),
        clock: Arc::new(SystemClock),
    };
    let api = Api::new(
        registrar.clone(),
        Arc::new(aws.deployments(&config.deployments_table)),
        Arc::new(aws.executions(state_machine_arn)),
        Settings {
            default_timeout_secs: config.timeout_secs,
            record_ttl_days: config.record_ttl_days,
            ..Settings::default()
        },
    );
    Ok(Function { router: register::router(Arc::new(api)), registrar })
}
