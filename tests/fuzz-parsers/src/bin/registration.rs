//! `src/targets/registration.rs` under libFuzzer.
#![no_main]

use fuzz_parsers::REGISTRATION;

libfuzzer_sys::fuzz_target!(init: REGISTRATION.begin(std::env::var_os("FUZZ_SEEDS")), |data: &[u8]| REGISTRATION.run(data));
