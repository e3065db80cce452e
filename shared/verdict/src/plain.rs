//! Plain Helm: the verdict over the release secrets of one release.
pub mod object;
pub(crate) mod rules;
