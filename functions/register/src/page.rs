//! Which page of the list is asked for.

use axum::{
    extract::{FromRequestParts, Query},
    http::request::Parts,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use monitor::slug::slug;

use crate::problem::{Kind, Problem};

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 100;

/// The query of the list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PageQuery {
    pub(crate) limit: usize,
    pub(crate) after: Option<String>,
}

/// Where the next page begins. Callers must not build on what it is made of, so
/// it doesn't look like it.
pub(crate) fn next_token(last_id: &str) -> String {
    URL_SAFE_NO_PAD.encode(last_id)
}

fn last_id(token: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let id = String::from_utf8(bytes).ok()?;
    (!id.is_empty() && id.len() <= 100 && slug(&id) == id).then_some(id)
}

impl PageQuery {
    fn read(pairs: &[(String, String)]) -> Result<Self, &'static str> {
        let (mut limit, mut after) = (None, None);
        for (name, value) in pairs {
            let twice = match name.as_str() {
                "limit" => {
                    let number = value.parse().ok().filter(|n| (1..=MAX_LIMIT).contains(n));
                    limit.replace(number.ok_or("limit must be a whole number from 1 to 100")?).is_some()
                }
                "nextToken" => {
                    let id = last_id(value).ok_or("nextToken must be the nextToken of the page before")?;
                    after.replace(id).is_some()
                }
                _ => return Err("the query holds something unknown; known are limit and nextToken"),
            };
            if twice {
                return Err("limit and nextToken may each be given once");
            }
        }
        Ok(Self { limit: limit.unwrap_or(DEFAULT_LIMIT), after })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PageQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(pairs) = Query::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::new(Kind::Malformed, "the query can't be read"))?;
        Self::read(&pairs).map_err(|detail| Problem::new(Kind::Malformed, detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &[(&str, &str)]) -> Result<PageQuery, &'static str> {
        let pairs: Vec<_> = query.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        PageQuery::read(&pairs)
    }

    #[test]
    fn a_page_is_what_the_page_before_says() {
        assert_eq!(read(&[]), Ok(PageQuery { limit: 50, after: None }));
        let token = next_token("prod-eu");
        let page = PageQuery { limit: 100, after: Some("prod-eu".to_owned()) };
        assert_eq!(read(&[("nextToken", &token), ("limit", "100")]), Ok(page));
    }

    #[test]
    fn what_is_no_page_is_refused() {
        for query in [
            &[("limit", "0")] as &[_],
            &[("limit", "101")],
            &[("limit", "-1")],
            &[("limit", "")],
            &[("limit", "ten")],
            &[("limit", "1"), ("limit", "1")],
            &[("nextToken", "")],
            &[("nextToken", "prod-eu")],
            &[("nextToken", &next_token("Prod EU"))],
            &[("nextToken", &next_token(&"x".repeat(101)))],
            &[("limt", "1")],
        ] {
            assert!(read(query).is_err(), "{query:?}");
        }
    }
}
