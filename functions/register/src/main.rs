//! The register function: wiring only.

use std::{process::ExitCode, sync::Arc};

use aws::{Aws, RegisterConfig};
use kubernetes::{AddressPolicy, Rules};
use monitor::{check::chain, ports::SystemClock, register::Registrar};

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

async fn run() -> Result<(), lambda_http::Error> {
    let config = RegisterConfig::from_env()?;
    aws::logging::init(&config.log);
    let aws = Aws::new(&config.access);
    let policy = AddressPolicy::parse(config.allowed_api_server_cidrs.as_deref().unwrap_or_default())?;
    let registrar = Registrar {
        registry: Arc::new(aws.registry(&config.registry_table)),
        vault: Arc::new(aws.vault(&config.secret_prefix)),
        rules: Arc::new(Rules::new(policy)),
        clock: Arc::new(SystemClock),
    };
    lambda_http::run(register::router(Arc::new(registrar))).await
}
