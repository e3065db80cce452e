#![doc = include_str!("../README.md")]

mod bus;
mod client;
pub mod config;
mod deployments;
mod error;
pub mod logging;
mod registry;
#[cfg(test)]
mod replay;
mod vault;

pub use bus::BusEvents;
pub use client::Aws;
pub use config::{Access, CheckConfig, ConfigError, RegisterConfig};
pub use deployments::DynamoDeployments;
pub use registry::DynamoRegistry;
pub use vault::SecretsVault;
