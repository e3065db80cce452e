//! Turns the API's document into what `GET /openapi.json` answers.
//!
//! `infra/openapi.yaml` is the one source: API Gateway imports it, and this makes
//! JSON of it, without what is said to API Gateway alone.

use std::{env, error::Error, fs, path::Path};

use serde_json::Value;

/// From this folder.
const DOCUMENT: &str = "../../infra/openapi.yaml";

/// What every member begins with that only API Gateway understands: it tells of the
/// function behind the API and holds CloudFormation's placeholders.
const FOR_API_GATEWAY: &str = "x-amazon-apigateway-";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={DOCUMENT}");
    println!("cargo::rerun-if-changed=build.rs");
    let yaml = fs::read_to_string(DOCUMENT).map_err(|error| format!("{DOCUMENT}: {error}"))?;
    let mut document: Value =
        serde_saphyr::from_str(&yaml).map_err(|error| format!("{DOCUMENT}: {error}"))?;
    strip(&mut document);
    let folder = env::var_os("OUT_DIR").ok_or("cargo gives OUT_DIR to a build script")?;
    fs::write(Path::new(&folder).join("openapi.json"), serde_json::to_vec(&document)?)?;
    Ok(())
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, _| !name.starts_with(FOR_API_GATEWAY));
            members.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}
