//! From an option's text to its value, or to a sentence that says what is awaited.

use aws::operator::ApiAddress;
use monitor::request::{TIMEOUT_SECS, is_deployment_id, is_label};
use serde_json::Value;

/// What is judged: a release in a namespace, on the cluster of a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The context, or the registered cluster; `None`: the context that is used without a name.
    pub(crate) cluster: Option<String>,
    /// The namespace; `None`: the context's.
    pub(crate) namespace: Option<String>,
    pub(crate) release: String,
}

/// One of `expect.values`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExpectedValue {
    pub(crate) pointer: String,
    pub(crate) value: Value,
}

/// `CLUSTER/NAMESPACE/RELEASE` or `NAMESPACE/RELEASE`. Read from the right: the name of a
/// context may hold slashes, as the ARN of an EKS cluster does.
pub(super) fn target(text: &str) -> Result<Target, String> {
    let mut parts = text.rsplitn(3, '/');
    let (release, namespace, cluster) = (parts.next(), parts.next(), parts.next());
    match (release, namespace) {
        (Some(release), Some(namespace))
            if !release.is_empty() && !namespace.is_empty() && cluster != Some("") =>
        {
            Ok(Target {
                cluster: cluster.map(str::to_owned),
                namespace: Some(namespace.to_owned()),
                release: release.to_owned(),
            })
        }
        _ => Err(
            "CLUSTER/NAMESPACE/RELEASE is awaited, as prod-eu/shop/checkout; CLUSTER is a context's name, \
                  and may be left out"
                .to_owned(),
        ),
    }
}

/// The same on a registered cluster, which must be named.
pub(super) fn registered_target(text: &str) -> Result<Target, String> {
    target(text).ok().filter(|it| it.cluster.is_some()).ok_or_else(|| {
        "CLUSTER/NAMESPACE/RELEASE is awaited, as prod-eu/shop/checkout; CLUSTER is the name or id of a \
         registered cluster"
            .to_owned()
    })
}

/// An app or an environment.
pub(super) fn label(text: &str) -> Result<String, String> {
    is_label(text).then(|| text.to_owned()).ok_or_else(|| "1-63 of a-z 0-9 - are awaited".to_owned())
}

pub(super) fn deployment_id(text: &str) -> Result<String, String> {
    let awaited = || "1-80 of A-Z a-z 0-9 - _ are awaited".to_owned();
    is_deployment_id(text).then(|| text.to_owned()).ok_or_else(awaited)
}

pub(super) fn api_address(text: &str) -> Result<ApiAddress, String> {
    ApiAddress::parse(text)
}

/// `POINTER=VALUE`. A value that is a JSON object or list is taken as such; everything
/// else as a string, which equals a number or a boolean of the same text.
pub(super) fn expected_value(text: &str) -> Result<ExpectedValue, String> {
    let awaited = || "POINTER=VALUE is awaited, as /image/tag=1.2.3".to_owned();
    let (pointer, value) = text.split_once('=').ok_or_else(awaited)?;
    if !pointer.starts_with('/') {
        return Err(format!("{}; the pointer begins with /", awaited()));
    }
    let value = match serde_json::from_str(value) {
        Ok(value @ (Value::Object(_) | Value::Array(_))) => value,
        _ => Value::String(value.to_owned()),
    };
    Ok(ExpectedValue { pointer: pointer.to_owned(), value })
}

/// A duration as `kubectl`, `helm` and `flux` take it, or a number of seconds.
pub(super) fn timeout_secs(text: &str) -> Result<u32, String> {
    let secs = text.parse::<u32>().ok().map(f64::from).or_else(|| go_duration(text));
    let Some(secs) = secs else {
        return Err("a duration is awaited, as 5m, 90s or 1h30m, or a number of seconds".to_owned());
    };
    let secs = secs.ceil();
    let (least, most) = (*TIMEOUT_SECS.start(), *TIMEOUT_SECS.end());
    if (f64::from(least)..=f64::from(most)).contains(&secs) {
        // Within the bounds it is a whole number that fits.
        Ok(secs as u32)
    } else {
        Err(format!("it must be from {least}s to {}h", most / 3600))
    }
}

/// Go's `time.ParseDuration`, without a sign: numbers with units, one after the other.
fn go_duration(text: &str) -> Option<f64> {
    let of_number = |c: char| c.is_ascii_digit() || c == '.';
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c| !of_number(c))?);
        let (unit, after) = after.split_at(after.find(of_number).unwrap_or(after.len()));
        let secs = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * secs;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_timeout_is_a_go_duration_or_seconds() {
        for (text, secs) in [
            ("5m", 300),
            ("300", 300),
            ("300s", 300),
            ("1h30m", 5400),
            ("1.5h", 5400),
            ("2h", 7200),
            ("7200", 7200),
            ("10s", 10),
            ("1m0.5s", 61),
            ("90000ms", 90),
        ] {
            assert_eq!(timeout_secs(text), Ok(secs), "{text}");
        }
        for text in [
            "",
            "5",
            "9s",
            "2h1s",
            "7201",
            "5x",
            "m",
            "5m x",
            "-5m",
            "1..5m",
            "five",
            "5 m",
            "1d",
            "99999999h",
        ] {
            assert!(timeout_secs(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_target_is_read_from_the_right() {
        let arn = "arn:aws:eks:eu-central-1:123456789012:cluster/prod";
        for (text, cluster, namespace, release) in [
            ("prod/shop/checkout", Some("prod"), "shop", "checkout"),
            ("shop/checkout", None, "shop", "checkout"),
            (&format!("{arn}/shop/checkout"), Some(arn), "shop", "checkout"),
        ] {
            let read = target(text).unwrap();
            assert_eq!(read.cluster.as_deref(), cluster);
            assert_eq!((read.namespace.as_deref(), read.release.as_str()), (Some(namespace), release));
        }
        for text in ["", "checkout", "/", "shop/", "/checkout", "prod//checkout", "/shop/checkout"] {
            assert!(target(text).unwrap_err().contains("prod-eu/shop/checkout"), "{text}");
        }
    }

    #[test]
    fn an_expected_value_is_a_string_unless_it_has_an_inside() {
        for (text, pointer, value) in [
            ("/image/tag=1.2.3", "/image/tag", json!("1.2.3")),
            ("/replicas=3", "/replicas", json!("3")),
            ("/a=b=c", "/a", json!("b=c")),
            ("/a=", "/a", json!("")),
            ("/hosts=[\"a\"]", "/hosts", json!(["a"])),
            ("/image={\"tag\": 1}", "/image", json!({"tag": 1})),
            ("/a={b", "/a", json!("{b")),
        ] {
            assert_eq!(expected_value(text), Ok(ExpectedValue { pointer: pointer.to_owned(), value }));
        }
        for text in ["", "/image/tag", "image.tag=1", "=1"] {
            assert!(expected_value(text).unwrap_err().contains("/image/tag=1.2.3"), "{text}");
        }
    }
}
