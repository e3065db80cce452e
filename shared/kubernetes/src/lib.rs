#![doc = include_str!("../README.md")]

#[cfg(feature = "operator")]
mod account;
mod address;
mod bodies;
mod certificates;
mod client;
mod endpoint;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod parsing;
mod payload;
mod probe;
mod recorder;
mod redaction;
mod registration;
mod requests;
mod trouble;

#[cfg(feature = "operator")]
pub use account::AccountToken;
pub use address::{AddressPolicy, BadCidr, RefusedAddress};
pub use client::{KubernetesClient, SetupError, Timeouts};
pub use registration::Rules;
