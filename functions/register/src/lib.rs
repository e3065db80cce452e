#![doc = include_str!("../README.md")]

mod body;
#[cfg(test)]
mod document;
#[cfg(feature = "events")]
pub mod events;
mod json;
mod problem;
mod query;
mod routes;
mod view;

pub use problem::{Kind, Problem};
pub use routes::{Api, router};
