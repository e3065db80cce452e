//! The API's document, and whether a body is what it promises.

use jsonschema::Validator;
use serde_json::{Map, Value, json};

/// As API Gateway imports it.
pub(crate) fn read() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../infra/openapi.yaml");
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A schema of the document, ready to judge.
pub(crate) fn validator(document: &Value, schema: &Value) -> Validator {
    let mut root = json_schema(schema);
    // A reference beside which something else stands is followed alone in some drafts.
    root = json!({"allOf": [root], "components": {"schemas": {}}});
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let converted: Map<String, Value> =
        schemas.iter().map(|(name, schema)| (name.clone(), json_schema(schema))).collect();
    root["components"]["schemas"] = Value::Object(converted);
    jsonschema::options().should_validate_formats(true).build(&root).unwrap()
}

/// OpenAPI 3.0 says `nullable` where JSON Schema has a type.
fn json_schema(schema: &Value) -> Value {
    match schema {
        Value::Object(members) => {
            let converted: Map<String, Value> = members
                .iter()
                .filter(|(name, _)| {
                    !matches!(name.as_str(), "nullable" | "example" | "description" | "default")
                })
                .map(|(name, value)| match (name.as_str(), value) {
                    ("properties", Value::Object(properties)) => {
                        let properties: Map<String, Value> =
                            properties.iter().map(|(name, it)| (name.clone(), json_schema(it))).collect();
                        (name.clone(), Value::Object(properties))
                    }
                    ("enum" | "required", value) => (name.clone(), value.clone()),
                    _ => (name.clone(), json_schema(value)),
                })
                .collect();
            let converted = Value::Object(converted);
            if members.get("nullable") == Some(&Value::Bool(true)) {
                json!({"anyOf": [converted, {"type": "null"}]})
            } else {
                converted
            }
        }
        Value::Array(items) => Value::Array(items.iter().map(json_schema).collect()),
        other => other.clone(),
    }
}

/// What is wrong with a body, each with its place.
pub(crate) fn errors(validator: &Validator, body: &Value) -> Vec<String> {
    validator.iter_errors(body).map(|error| format!("{}: {error}", error.instance_path())).collect()
}
