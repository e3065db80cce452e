#![doc = include_str!("../README.md")]

pub mod answer;
pub mod check;
pub mod cluster;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod credentials;
pub mod deploy;
pub mod deployment;
pub mod environment;
pub mod environments;
pub mod memory;
pub mod namespaces;
pub mod ports;
pub mod probe;
pub mod register;
pub mod request;
mod resolve;
pub mod secret;
pub mod slug;
