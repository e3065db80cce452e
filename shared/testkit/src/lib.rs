#![doc = include_str!("../README.md")]

mod api;
pub mod aws;
mod certificates;
mod clock;
mod cluster;
pub mod control;
mod fault;
mod payload;
mod rewrite;
mod rules;
mod scenario;
mod server;
mod store;

pub use certificates::{CertificateError, CertificateKind};
pub use clock::FixedClock;
pub use cluster::{Config, FaultError, Played, SimulatedCluster, StartError};
pub use fault::Fault;
pub use payload::{release_payload, release_secret};
pub use rules::Rule;
pub use scenario::{Event, Scenario, ScenarioError};
pub use server::{Logged, Traffic};
