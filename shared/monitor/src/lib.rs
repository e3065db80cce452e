#![doc = include_str!("../README.md")]

pub mod answer;
pub mod check;
pub mod cluster;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod credentials;
pub mod deployment;
pub mod memory;
pub mod ports;
pub mod register;
pub mod request;
pub mod slug;
