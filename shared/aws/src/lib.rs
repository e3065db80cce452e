#![doc = include_str!("../README.md")]

mod bus;
mod client;
pub mod config;
mod deployments;
mod eks;
mod error;
mod executions;
pub mod logging;
mod metrics;
#[cfg(feature = "operator")]
pub mod operator;
mod pages;
mod registry;
#[cfg(test)]
mod replay;
mod signed;
mod vault;

pub use bus::BusEvents;
pub use client::Aws;
pub use config::{Access, CheckConfig, ConfigError, RegisterConfig};
pub use deployments::DynamoDeployments;
pub use eks::EksMinter;
pub use executions::StepFunctions;
pub use metrics::EmfMetrics;
pub use registry::DynamoRegistry;
pub use vault::SecretsVault;
