mod address;
mod api;
mod certificate;
mod event;
mod flux;
mod payload;
mod plain;
mod probe;
mod redaction;
mod registration;
mod world;

pub use self::{
    address::ADDRESS, api::API, certificate::CERTIFICATE, event::EVENT, flux::FLUX, payload::PAYLOAD,
    plain::PLAIN, probe::PROBE, redaction::REDACTION, registration::REGISTRATION,
};
