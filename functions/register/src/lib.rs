#![doc = include_str!("../README.md")]

mod body;
mod page;
mod problem;
mod routes;
mod view;

pub use routes::router;
