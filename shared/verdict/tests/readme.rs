//! The README's table of verdicts is written from the file that the golden
//! tests execute. `UPDATE_README=1` writes it anew.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A test may fail by a panic.

use std::{fmt::Write as _, fs, path::PathBuf};

use serde_json::Value;
use verdict::Reason;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn the_readmes_table_is_what_the_tests_execute() {
    let root = root();
    let cases: Vec<Value> =
        serde_json::from_slice(&fs::read(root.join("tests/fixtures/verdicts.json")).unwrap()).unwrap();
    let mut table =
        String::from("| what happens | `helmType` | verdict | reason |\n| --- | --- | --- | --- |\n");
    for case in &cases {
        let Some(title) = case["title"].as_str() else { continue };
        let helm_type =
            if case["recording"].as_str().unwrap().starts_with("flux/") { "flux" } else { "plain" };
        let verdict = &case["verdict"];
        let (status, reason) = (verdict["status"].as_str().unwrap(), verdict["reason"].as_str().unwrap());
        let waited =
            verdict["lastReason"].as_str().map(|r| format!(", waited for: `{r}`")).unwrap_or_default();
        writeln!(table, "| {title} | {helm_type} | {status} | `{reason}`{waited} |").unwrap();
    }
    let path = root.join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (head, rest) = readme.split_once("verdicts.json -->\n").unwrap();
    let (found, tail) = rest.split_once("<!-- /verdicts -->").unwrap();
    if std::env::var_os("UPDATE_README").is_some() {
        fs::write(&path, format!("{head}verdicts.json -->\n{table}<!-- /verdicts -->{tail}")).unwrap();
    } else {
        assert_eq!(found, table, "run UPDATE_README=1 cargo test -p verdict --test readme");
    }
}

/// `docs/reasons.md` has an entry for each reason, in the order of the list.
#[test]
fn every_reason_is_explained() {
    let page = fs::read_to_string(root().join("docs/reasons.md")).unwrap();
    let (page, _) = page.split_once("\n## When a cluster can't be registered\n").unwrap();
    let entries: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect();
    let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(entries, reasons);
    for (entry, text) in page.split("\n### `").skip(1).filter_map(|it| it.split_once("`\n")) {
        let text = text.split("\n## ").next().unwrap_or_default();
        assert!(text.trim().len() > 40, "{entry} is not explained");
    }
}
