//! What stands behind the `?`. Every route refuses what it doesn't know: a misspelt
//! `probe=false` must not probe.

use axum::{
    extract::{FromRequestParts, Query},
    http::request::Parts,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use monitor::{
    register::Probing,
    request::{is_deployment_id, is_label},
    slug::slug,
};

use crate::problem::{Kind, Problem};

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 100;

/// The longest id of a cluster.
const MAX_ID_BYTES: usize = 100;

const LIMIT: &str = "limit";
const NEXT_TOKEN: &str = "nextToken";
const PROBE: &str = "probe";
const APP: &str = "app";
const ENVIRONMENT: &str = "environment";

const NO_TOKEN: &str = "nextToken must be the nextToken of the page before";

/// No query at all.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoQuery;

/// Whether to probe.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ProbeQuery(pub(crate) Probing);

/// Which page of the clusters.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClusterQuery {
    pub(crate) limit: usize,
    pub(crate) after: Option<String>,
}

/// Which page of an app's environments.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EnvironmentQuery {
    pub(crate) limit: usize,
    pub(crate) after: Option<String>,
}

/// Which page of which environment's deployments.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HistoryQuery {
    pub(crate) app: String,
    pub(crate) environment: String,
    pub(crate) limit: usize,
    pub(crate) after: Option<(Timestamp, String)>,
}

/// Where the next page begins. Callers must not build on what it is made of, so
/// it doesn't look like it.
pub(crate) fn next_token(last: &str) -> String {
    URL_SAFE_NO_PAD.encode(last)
}

/// The same for deployments, which are told apart by start and id.
pub(crate) fn next_deployment(started_at: Timestamp, id: &str) -> String {
    next_token(&format!("{started_at}/{id}"))
}

fn last(token: &str, is_last: impl Fn(&str) -> bool) -> Option<String> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    is_last(&text).then_some(text)
}

fn last_deployment(token: &str) -> Option<(Timestamp, String)> {
    let text = last(token, |_| true)?;
    let (started_at, id) = text.split_once('/')?;
    let instant: Timestamp = started_at.parse().ok()?;
    // Only as we write it, and none that the store's order of texts can't have.
    let ours = instant.to_string() == started_at && instant >= Timestamp::UNIX_EPOCH;
    (ours && is_deployment_id(id)).then(|| (instant, id.to_owned()))
}

/// Name and value, each name at most once.
struct Pairs(Vec<(String, String)>);

impl Pairs {
    fn take(&mut self, name: &str) -> Result<Option<String>, String> {
        let Some(index) = self.0.iter().position(|(it, _)| it == name) else {
            return Ok(None);
        };
        let (_, value) = self.0.remove(index);
        if self.0.iter().any(|(it, _)| it == name) {
            return Err(format!("{name} may be given once"));
        }
        Ok(Some(value))
    }

    fn limit(&mut self) -> Result<usize, String> {
        let Some(value) = self.take(LIMIT)? else {
            return Ok(DEFAULT_LIMIT);
        };
        // Rust would read a plus sign, too.
        let digits = value.bytes().all(|byte| byte.is_ascii_digit());
        let number = value.parse().ok().filter(|it| digits && (1..=MAX_LIMIT).contains(it));
        number.ok_or_else(|| format!("limit must be a whole number from 1 to {MAX_LIMIT}"))
    }

    fn after<T>(&mut self, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>, String> {
        self.take(NEXT_TOKEN)?.map(|token| read(&token).ok_or_else(|| NO_TOKEN.to_owned())).transpose()
    }

    fn label(&mut self, name: &str) -> Result<String, String> {
        match self.take(name)? {
            Some(value) if is_label(&value) => Ok(value),
            Some(_) => Err(format!("{name} must be 1-63 of a-z 0-9 -")),
            None => Err(format!("{name} is missing; the deployments of one environment are listed")),
        }
    }
}

/// One form of query.
trait Form: Sized {
    const KNOWN: &'static [&'static str];

    fn read(pairs: &mut Pairs) -> Result<Self, String>;

    fn read_all(pairs: Vec<(String, String)>) -> Result<Self, String> {
        if pairs.iter().any(|(name, _)| !Self::KNOWN.contains(&name.as_str())) {
            return Err(match Self::KNOWN {
                [] => "the query holds something unknown; this route knows none".to_owned(),
                known => format!("the query holds something unknown; known are {}", known.join(", ")),
            });
        }
        Self::read(&mut Pairs(pairs))
    }
}

impl Form for NoQuery {
    const KNOWN: &'static [&'static str] = &[];

    fn read(_: &mut Pairs) -> Result<Self, String> {
        Ok(Self)
    }
}

impl Form for ProbeQuery {
    const KNOWN: &'static [&'static str] = &[PROBE];

    fn read(pairs: &mut Pairs) -> Result<Self, String> {
        match pairs.take(PROBE)?.as_deref() {
            None | Some("true") => Ok(Self(Probing::First)),
            Some("false") => Ok(Self(Probing::Skipped)),
            Some(_) => Err("probe must be true or false".to_owned()),
        }
    }
}

impl Form for ClusterQuery {
    const KNOWN: &'static [&'static str] = &[LIMIT, NEXT_TOKEN];

    fn read(pairs: &mut Pairs) -> Result<Self, String> {
        let is_id = |id: &str| !id.is_empty() && id.len() <= MAX_ID_BYTES && slug(id) == id;
        Ok(Self { limit: pairs.limit()?, after: pairs.after(|token| last(token, is_id))? })
    }
}

impl Form for EnvironmentQuery {
    const KNOWN: &'static [&'static str] = &[LIMIT, NEXT_TOKEN];

    fn read(pairs: &mut Pairs) -> Result<Self, String> {
        Ok(Self { limit: pairs.limit()?, after: pairs.after(|token| last(token, is_label))? })
    }
}

impl Form for HistoryQuery {
    const KNOWN: &'static [&'static str] = &[APP, ENVIRONMENT, LIMIT, NEXT_TOKEN];

    fn read(pairs: &mut Pairs) -> Result<Self, String> {
        Ok(Self {
            app: pairs.label(APP)?,
            environment: pairs.label(ENVIRONMENT)?,
            limit: pairs.limit()?,
            after: pairs.after(last_deployment)?,
        })
    }
}

macro_rules! extracted {
    ($($form:ty),+) => {$(
        impl<S: Send + Sync> FromRequestParts<S> for $form {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
                let Query(pairs) = Query::<Vec<(String, String)>>::from_request_parts(parts, state)
                    .await
                    .map_err(|_| Problem::new(Kind::Malformed, "the query can't be read"))?;
                <$form as Form>::read_all(pairs).map_err(|detail| Problem::new(Kind::Malformed, detail))
            }
        }
    )+};
}

extracted!(NoQuery, ProbeQuery, ClusterQuery, EnvironmentQuery, HistoryQuery);

#[cfg(test)]
mod tests {
    use super::*;

    fn read<F: Form>(query: &[(&str, &str)]) -> Result<F, String> {
        F::read_all(query.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn a_page_is_what_the_page_before_says() {
        assert_eq!(read(&[]), Ok(ClusterQuery { limit: 50, after: None }));
        let token = next_token("prod-eu");
        let page = ClusterQuery { limit: 100, after: Some("prod-eu".to_owned()) };
        assert_eq!(read(&[("nextToken", &token), ("limit", "100")]), Ok(page));
        let page = EnvironmentQuery { limit: 1, after: Some("-a-".to_owned()) };
        assert_eq!(read(&[("nextToken", &next_token("-a-")), ("limit", "1")]), Ok(page));

        let (app, environment) = ("checkout".to_owned(), "production".to_owned());
        let started_at: Timestamp = "2026-11-23T19:15:45.123Z".parse().unwrap();
        let token = next_deployment(started_at, "checkout_4711");
        let after = Some((started_at, "checkout_4711".to_owned()));
        assert_eq!(
            read(&[("app", "checkout"), ("nextToken", &token), ("environment", "production")]),
            Ok(HistoryQuery { app, environment, limit: 50, after })
        );
    }

    #[test]
    fn what_is_no_page_is_refused() {
        for query in [
            &[("limit", "0")] as &[_],
            &[("limit", "101")],
            &[("limit", "-1")],
            &[("limit", "+1")],
            &[("limit", "")],
            &[("limit", "ten")],
            &[("limit", "18446744073709551617")],
            &[("limit", "1"), ("limit", "1")],
            &[("nextToken", "")],
            &[("nextToken", "prod-eu")],
            &[("nextToken", "/w")],
            &[("nextToken", &next_token("Prod EU"))],
            &[("nextToken", &next_token(&"x".repeat(101)))],
            &[("nextToken", &next_token("a")), ("nextToken", &next_token("a"))],
            &[("limt", "1")],
            &[("", "")],
        ] {
            assert!(read::<ClusterQuery>(query).is_err(), "{query:?}");
            if query[0].1 != next_token(&"x".repeat(101)) {
                assert!(read::<EnvironmentQuery>(query).is_err(), "{query:?}");
            }
        }
        assert!(read::<EnvironmentQuery>(&[("nextToken", &next_token(&"x".repeat(64)))]).is_err());
    }

    #[test]
    fn a_history_is_of_one_environment_and_goes_on_where_we_said() {
        let both = [("app", "checkout"), ("environment", "production")];
        assert!(read::<HistoryQuery>(&both).is_ok());
        for query in [
            &[] as &[_],
            &both[..1],
            &both[1..],
            &[("app", "Check Out"), both[1]],
            &[both[0], ("environment", "")],
            &[both[0], both[1], both[0]],
            &[both[0], both[1], ("status", "failed")],
        ] {
            assert!(read::<HistoryQuery>(query).is_err(), "{query:?}");
        }
        for last in [
            "",
            "/",
            "checkout",
            "2026-11-23T19:15:45Z",
            "2026-11-23T19:15:45Z/",
            "2026-11-23T19:15:45Z/a b",
            "2026-11-23T20:15:45+01:00/a",
            "1969-12-31T23:59:59Z/a",
            "-009999-01-02T00:00:00Z/a",
        ] {
            let token = next_token(last);
            assert!(read::<HistoryQuery>(&[both[0], both[1], ("nextToken", &token)]).is_err(), "{last}");
        }
    }

    #[test]
    fn a_probe_is_skipped_only_in_so_many_words() {
        assert_eq!(read(&[]), Ok(ProbeQuery(Probing::First)));
        assert_eq!(read(&[("probe", "true")]), Ok(ProbeQuery(Probing::First)));
        assert_eq!(read(&[("probe", "false")]), Ok(ProbeQuery(Probing::Skipped)));
        for query in [
            &[("probe", "")] as &[_],
            &[("probe", "False")],
            &[("probe", "0")],
            &[("probe", "false"), ("probe", "false")],
            &[("probe", "true"), ("probe", "false")],
            &[("Probe", "false")],
            &[("limit", "1")],
        ] {
            assert!(read::<ProbeQuery>(query).is_err(), "{query:?}");
        }
        assert_eq!(read(&[]), Ok(NoQuery));
        assert!(read::<NoQuery>(&[("probe", "true")]).is_err());
    }
}
