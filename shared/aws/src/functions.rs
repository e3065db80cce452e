//! What a Lambda process has of AWS.

mod bus;
mod client;
pub mod config;
mod deployments;
mod eks;
mod executions;
pub mod logging;
mod metrics;
mod pages;
mod registry;
#[cfg(test)]
mod replay;
mod store;
mod vault;

pub use bus::BusEvents;
pub use client::Aws;
pub use config::{Access, Config, ConfigError, RegisterConfig};
pub use deployments::DynamoDeployments;
pub use eks::EksMinter;
pub use executions::StepFunctions;
pub use metrics::EmfMetrics;
pub use registry::DynamoRegistry;
pub use vault::SecretsVault;
