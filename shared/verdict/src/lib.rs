#![doc = include_str!("../README.md")]

mod ask;
pub mod bounded;
mod conclude;
mod decide;
mod expectation;
pub mod flux;
pub mod plain;
mod reason;
mod state;
mod text;
mod values;
mod version;

pub use ask::{AskError, AskErrorKind, Expect, FailOn, Look, Question, Releases, Seen};
pub use conclude::{Conclusion, conclude, stop_waiting};
pub use decide::{Decision, POLL_APART, decide, expire};
pub use flux::object::HelmRelease;
pub use plain::object::{Payload, Release, ReleaseStatus, Revision};
pub use reason::{Evidence, HelmType, Reason, Status};
pub use state::{
    Baseline, FluxBaseline, Memory, Observed, PlainBaseline, ReleaseId, RevisionId, Streak, TargetState,
};
pub use text::{MESSAGE_BYTES, clean};
pub use values::Values;

/// How many revisions of a baseline are kept: an item stays small at 10,000 of them.
pub const KEPT_REVISIONS: usize = 20;
