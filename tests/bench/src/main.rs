#![doc = include_str!("../README.md")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A bench may fail by a panic.

mod allocations;
mod aws_server;
mod cold;
mod decision;
mod hot;
mod many;
mod money;
mod plain;
mod process;
mod relay;
mod table;
mod tools;
mod verdicts;
mod world;

use std::path::PathBuf;

use table::Table;

/// The sections, in the order of the table.
const SECTIONS: [&str; 6] = ["hot", "cold", "plain", "many", "verdict", "money"];

/// The bootstraps that are measured.
pub(crate) struct Binaries {
    pub(crate) check: PathBuf,
    pub(crate) register: PathBuf,
    pub(crate) bare: PathBuf,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        // This program in a process of its own, for what needs one.
        Some("--allocations") => return allocations::child(&arguments[1]),
        Some("--decide") => return decision::child(&arguments[1], arguments[2].parse().unwrap()),
        _ => {}
    }
    if let Some(unknown) = arguments.iter().find(|it| !SECTIONS.contains(&it.as_str())) {
        eprintln!("{unknown} is no section; there are: {}", SECTIONS.join(" "));
        std::process::exit(2);
    }
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let binaries = Binaries {
        check: folder.join("check"),
        register: folder.join("register"),
        bare: folder.join("bare"),
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let table = runtime.block_on(measured(&arguments, &binaries));
    println!("{}", table.render());
    println!("{}", tools::machine());
}

async fn measured(wanted: &[String], binaries: &Binaries) -> Table {
    let mut table = Table::default();
    let mut counted = money::Counted::default();
    for section in SECTIONS {
        if !wanted.is_empty() && !wanted.iter().any(|it| it == section) {
            continue;
        }
        eprintln!("{section}");
        match section {
            "hot" => hot::measure(&mut table, binaries, &mut counted).await,
            "cold" => cold::measure(&mut table, binaries).await,
            "plain" => plain::measure(&mut table, binaries).await,
            "many" => many::measure(&mut table, binaries).await,
            "verdict" => verdicts::measure(&mut table),
            _ => money::measure(&mut table, &counted),
        }
    }
    table
}
