//! The handler over the SDK's own wire, to an AWS that misbehaves in every way there is, and
//! killed at each of its awaits: one verdict, the right one, and what is told is what is stored.
//! The time is tokio's, and stands still while anything happens: nothing waits for real.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A test may fail by a panic.

mod closing;
mod faults;
mod kills;
mod rivals;
mod world;
