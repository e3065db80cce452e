//! Flux: the verdict over one HelmRelease.
pub mod object;
pub(crate) mod rules;
