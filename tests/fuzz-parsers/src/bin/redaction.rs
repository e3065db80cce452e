//! `src/targets/redaction.rs` under libFuzzer.
#![no_main]

use fuzz_parsers::REDACTION;

libfuzzer_sys::fuzz_target!(init: REDACTION.begin(std::env::var_os("FUZZ_SEEDS")), |data: &[u8]| REDACTION.run(data));
