//! `src/targets/certificate.rs` under libFuzzer.
#![no_main]

use fuzz_parsers::CERTIFICATE;

libfuzzer_sys::fuzz_target!(init: CERTIFICATE.begin(std::env::var_os("FUZZ_SEEDS")), |data: &[u8]| CERTIFICATE.run(data));
