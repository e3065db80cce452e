//! What the fuzzer begins with keeps every promise.

use fuzz_parsers::{TARGETS, Target};

fn all_keep_their_promises(target: &Target) {
    let seeds = target.seeds();
    assert!(!seeds.is_empty(), "{} begins with nothing", target.name);
    for seed in seeds {
        target.run(&seed);
    }
}

#[test]
fn the_seeds_of_every_target_keep_its_promises() {
    for target in TARGETS {
        all_keep_their_promises(target);
    }
}

#[test]
fn every_target_has_a_program() {
    let manifest = include_str!("../Cargo.toml");
    let programs: Vec<&str> =
        manifest.lines().filter_map(|line| line.strip_prefix("name = ")).skip(1).collect();
    let targets = TARGETS.map(|target| format!("{:?}", target.name));
    assert_eq!(programs, targets);
}
