//! Moving a recorded answer to another time, namespace and name.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::payload;

/// From the recorded cluster's clock to that of the simulated one.
#[derive(Debug, Clone)]
pub(crate) struct Shift<'a> {
    /// The push on the recorded clock, in milliseconds since 1970.
    pub(crate) recorded_ms: i64,
    /// The push on the simulated clock, in milliseconds since 1970.
    pub(crate) replayed_ms: i64,
    /// How many recorded seconds pass in one.
    pub(crate) speed: f64,
    /// When each second was first shown, on the recorded clock.
    pub(crate) first_seen: &'a BTreeMap<i64, i64>,
    /// By how many seconds more what was long before the push is moved back.
    pub(crate) earlier: i64,
}

impl Shift<'_> {
    /// A stamp of whole seconds. What happened lies between the stamp and the
    /// end of its second, and not after the answer that first shows it; the
    /// latest such moment is moved and cut again. At the recorded speed that is
    /// one constant of whole seconds; at another no stamp runs ahead of the
    /// clock, and none of a later answer falls before the push's own second.
    fn second(&self, second: i64) -> i64 {
        // A label may hold any number.
        let end = second.saturating_mul(1000).saturating_add(999);
        let latest = self.first_seen.get(&second).map_or(end, |shown| end.min(*shown));
        self.milli(latest).div_euclid(1000)
    }

    fn milli(&self, recorded: i64) -> i64 {
        // What shares the push's second may be of after it, and stays with it.
        let before = recorded.div_euclid(1000) < self.recorded_ms.div_euclid(1000);
        let back = if before { self.earlier * 1000 } else { 0 };
        let after_push = self.after_push(recorded.saturating_sub(self.recorded_ms));
        self.replayed_ms.saturating_add(after_push).saturating_sub(back)
    }

    /// What is shown until the push was there before, so its stamps must be in
    /// the past even now, at `now_ms`: where the push is too far ahead for that,
    /// they are moved back further.
    pub(crate) fn settled_by(mut self, now_ms: i64) -> Self {
        let newest = self.first_seen.range(..self.recorded_ms.div_euclid(1000)).next_back();
        let ahead = newest.map_or(0, |(newest, _)| self.second(*newest) - now_ms.div_euclid(1000));
        self.earlier = ahead.max(0);
        self
    }

    /// A time after the recorded push, after the replayed one.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "an hour is 3.6 million"
    )]
    pub(crate) fn after_push(&self, recorded_ms: i64) -> i64 {
        (recorded_ms as f64 / self.speed).round() as i64
    }

    fn stamp(&self, stamp: Timestamp) -> Timestamp {
        let nanos = i64::from(stamp.subsec_nanosecond());
        let moved = if nanos == 0 {
            Timestamp::from_second(self.second(stamp.as_second()))
        } else {
            // Finer than a millisecond is kept as it is: it says nothing.
            Timestamp::from_millisecond(self.milli(stamp.as_millisecond()))
                .and_then(|it| it.checked_add(jiff::SignedDuration::from_nanos(nanos % 1_000_000)))
        };
        moved.unwrap_or(stamp)
    }
}

/// Everything about an answer that a replay changes.
#[derive(Debug, Clone)]
pub(crate) struct Rewrite<'a> {
    pub(crate) shift: Shift<'a>,
    namespace: (&'a str, &'a str),
    release: (&'a str, &'a str),
    /// What is replaced in running text, and by what.
    texts: Vec<(String, String)>,
}

impl<'a> Rewrite<'a> {
    pub(crate) fn new(shift: Shift<'a>, namespace: (&'a str, &'a str), release: (&'a str, &'a str)) -> Self {
        let mut texts = Vec::new();
        // Both at once first, so that a new name that contains the old one is
        // not replaced again: `replaced` never looks at what it has put in.
        for joint in ["/", "-", "_"] {
            texts.push((
                format!("{}{joint}{}", namespace.0, release.0),
                format!("{}{joint}{}", namespace.1, release.1),
            ));
        }
        texts.push((format!("\"{}\"", release.0), format!("\"{}\"", release.1)));
        texts.push((format!("/{}/{}", namespace.0, release.0), format!("/{}/{}", namespace.1, release.1)));
        texts.push((format!("/{}/", namespace.0), format!("/{}/", namespace.1)));
        texts
            .push((format!("sh.helm.release.v1.{}", release.0), format!("sh.helm.release.v1.{}", release.1)));
        Self { shift, namespace, release, texts }
    }

    /// A HelmRelease, or a release secret with its payload.
    pub(crate) fn object(&self, object: &mut Value) {
        if let Some(data) = object.pointer_mut("/data/release")
            && let Some(mut release) = data.as_str().and_then(payload::unpack)
        {
            self.value("", &mut release);
            *data = Value::String(payload::release_payload(&release));
        }
        self.value("", object);
    }

    fn value(&self, key: &str, value: &mut Value) {
        match value {
            Value::Object(fields) => self.fields(key, fields),
            Value::Array(items) => items.iter_mut().for_each(|it| self.value(key, it)),
            Value::String(text) => {
                if let Some(new) = self.text(key, text) {
                    *text = new;
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn fields(&self, parent: &str, fields: &mut Map<String, Value>) {
        for (key, value) in fields {
            match key.as_str() {
                // The user's own, and what the release was made from; `data` is done already.
                "values" | "config" | "chart" | "data" => {}
                "name" if parent.ends_with("Ref") => {}
                _ => self.value(key, value),
            }
        }
    }

    fn text(&self, key: &str, text: &str) -> Option<String> {
        if let Some(stamp) = stamp(text) {
            return Some(self.shift.stamp(stamp).to_string());
        }
        // Helm's own stamps in labels are seconds since 1970.
        if matches!(key, "modifiedAt" | "createdAt") {
            return text.parse().ok().map(|it| self.shift.second(it).to_string());
        }
        let last = key.rsplit('/').next().unwrap_or(key);
        if matches!(last, "namespace" | "targetNamespace" | "storageNamespace") && text == self.namespace.0 {
            return Some(self.namespace.1.to_owned());
        }
        if matches!(last, "name" | "releaseName") && text == self.release.0 {
            return Some(self.release.1.to_owned());
        }
        self.replaced(text)
    }

    fn replaced(&self, text: &str) -> Option<String> {
        let mut out = String::new();
        let mut rest = text;
        let mut before = None;
        while let Some(next) = rest.chars().next() {
            let hit = self.texts.iter().find(|(old, _)| {
                rest.strip_prefix(old.as_str()).is_some_and(|after| {
                    // A quote or slash at either end is a border of its own.
                    let starts = !old.starts_with(in_word) || !before.is_some_and(in_name);
                    let ends = !old.ends_with(in_word) || !after.starts_with(in_word);
                    starts && ends
                })
            });
            if let Some((old, new)) = hit {
                out.push_str(new);
                rest = &rest[old.len()..];
                before = old.chars().last();
            } else {
                out.push(next);
                rest = &rest[next.len_utf8()..];
                before = Some(next);
            }
        }
        (out != text).then_some(out)
    }
}

/// Calls `each` with every RFC 3339 stamp.
pub(crate) fn for_each_stamp(value: &Value, each: &mut impl FnMut(Timestamp)) {
    match value {
        Value::Object(fields) => fields.values().for_each(|it| for_each_stamp(it, each)),
        Value::Array(items) => items.iter().for_each(|it| for_each_stamp(it, each)),
        Value::String(text) => {
            if let Some(stamp) = stamp(text) {
                each(stamp);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Whether an object can be called this: an RFC 1123 subdomain.
pub(crate) fn is_dns_name(name: &str) -> bool {
    let label = |it: &str| {
        !it.is_empty()
            && !it.starts_with('-')
            && !it.ends_with('-')
            && it.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn in_word(it: char) -> bool {
    it.is_ascii_alphanumeric()
}

fn in_name(it: char) -> bool {
    in_word(it) || matches!(it, '-' | '.')
}

/// The whole text as an RFC 3339 stamp, and nothing laxer: digests and versions
/// must not be taken for one.
fn stamp(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let shaped = (20..=35).contains(&bytes.len())
        && bytes[4] == b'-'
        && bytes[10] == b'T'
        && bytes[16] == b':'
        && bytes[..4].iter().all(u8::is_ascii_digit);
    shaped.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rewritten(speed: f64, mut value: Value) -> Value {
        let first_seen = BTreeMap::from([(1_000, 1_000_334), (999, 999_500)]);
        let shift = Shift {
            recorded_ms: 1_000_230,
            replayed_ms: 5_000_230,
            speed,
            first_seen: &first_seen,
            earlier: 0,
        };
        Rewrite::new(shift, ("apps", "shop"), ("app", "app-2")).object(&mut value);
        value
    }

    #[test]
    fn stamps_move_by_whole_seconds_at_the_recorded_speed() {
        let moved = rewritten(
            1.0,
            json!(["1970-01-01T00:16:40Z", "1970-01-01T00:16:39Z", "1970-01-01T00:16:40.5Z", "2.0.0", "r1"]),
        );
        assert_eq!(
            moved,
            json!(["1970-01-01T01:23:20Z", "1970-01-01T01:23:19Z", "1970-01-01T01:23:20.5Z", "2.0.0", "r1"])
        );
    }

    #[test]
    fn no_label_is_too_large() {
        rewritten(1.0, json!({"modifiedAt": i64::MAX.to_string(), "createdAt": i64::MIN.to_string()}));
    }

    #[test]
    fn slower_stamps_do_not_fall_before_the_push() {
        // Shown 104 ms after the push: 1.04 s at a tenth of the speed.
        assert_eq!(rewritten(0.1, json!("1970-01-01T00:16:40Z")), json!("1970-01-01T01:23:21Z"));
    }

    #[test]
    fn names_move_where_they_are_names() {
        let moved = rewritten(
            1.0,
            json!({
                "metadata": {"name": "app", "namespace": "apps", "labels": {"name": "app", "modifiedAt": "1000"}},
                "spec": {
                    "chart": {"spec": {"chart": "app"}},
                    "chartRef": {"name": "app", "namespace": "apps"},
                    "releaseName": "app",
                    "values": {"name": "app"},
                },
                "status": {
                    "helmChart": "flux-system/apps-app",
                    "message": "failed for release apps/app.v2 with chart app@1.0.0: Job/apps/app-migrate in my-apps/app, \"app\" apps/apple",
                    "secret": "sh.helm.release.v1.app.v2",
                },
            }),
        );
        assert_eq!(
            moved,
            json!({
                "metadata": {"name": "app-2", "namespace": "shop", "labels": {"name": "app-2", "modifiedAt": "5000"}},
                "spec": {
                    "chart": {"spec": {"chart": "app"}},
                    "chartRef": {"name": "app", "namespace": "shop"},
                    "releaseName": "app-2",
                    "values": {"name": "app"},
                },
                "status": {
                    "helmChart": "flux-system/shop-app-2",
                    "message": "failed for release shop/app-2.v2 with chart app@1.0.0: Job/shop/app-2-migrate in my-apps/app, \"app-2\" apps/apple",
                    "secret": "sh.helm.release.v1.app-2.v2",
                },
            })
        );
    }

    #[test]
    fn what_an_object_can_be_called() {
        assert!(is_dns_name("a") && is_dns_name("shop-1.eu"));
        assert!(
            !is_dns_name("")
                && !is_dns_name("-a")
                && !is_dns_name("a..b")
                && !is_dns_name("A")
                && !is_dns_name("a/b")
        );
    }
}
