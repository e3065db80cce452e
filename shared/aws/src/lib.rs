#![doc = include_str!("../README.md")]

mod error;
#[cfg(feature = "functions")]
mod functions;
#[cfg(feature = "operator")]
pub mod operator;
mod signed;

#[cfg(feature = "functions")]
pub use functions::*;
