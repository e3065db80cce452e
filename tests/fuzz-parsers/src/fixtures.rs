//! Seeds from what was recorded and what is shown as a sample.

use std::{fs, path::PathBuf};

use serde_json::Value;

/// A file or folder of the repository.
fn path(of: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(of)
}

fn read(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The JSON files of a folder, by name.
pub(crate) fn folder(of: &str) -> Vec<(String, Value)> {
    let files = fs::read_dir(path(of)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|it| it == "json")).collect();
    files.sort();
    files
        .into_iter()
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), read(path)))
        .collect()
}

/// A recorded answer of its own.
pub(crate) fn answer(name: &str) -> Value {
    read(path("tests/fixtures/api/answers.json"))[name].clone()
}

/// An answer as a line, see [`crate::input::heard`].
pub(crate) fn line(secs: i64, answer: &Value) -> Vec<u8> {
    let status = answer["status"].as_u64().unwrap();
    let content_type = answer["headers"]["Content-Type"].as_str().unwrap_or("application/json");
    let date = "Mon, 23 Nov 2026 19:26:40 GMT";
    let mut line = format!("{secs}\t{date}\t{status}\t{content_type}\t\t").into_bytes();
    line.extend(body(answer));
    line
}

/// The bytes of an answer's body.
pub(crate) fn body(answer: &Value) -> Vec<u8> {
    match &answer["body"] {
        Value::String(text) => text.trim_end().as_bytes().to_vec(),
        json => json.to_string().into_bytes(),
    }
}

/// The distinct answers of a recording.
pub(crate) fn frames(recording: &Value) -> &[Value] {
    recording["frames"].as_array().unwrap()
}

/// The last two names in the path that a recording asked: namespace and object, or namespace and `secrets`.
pub(crate) fn namespace(recording: &Value) -> &str {
    let path = recording["request"]["path"].as_str().unwrap();
    path.split("/namespaces/").nth(1).unwrap().split('/').next().unwrap()
}
