//! AWS as far as the handlers' stores need it, and what can go wrong between it and them.
//!
//! No emulator: it knows the requests that this project's adapters send, by the letter, and
//! refuses every other. What it adds to one is that each request can be given a [`Fate`], and
//! that it remembers everything: the requests, each version of each item, the events.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Map, Value, json};
use tokio::task::yield_now;

/// The conditions of the adapters' writes. None of them is interpreted: one that is
/// changed must be changed here, too, and thought about.
mod condition {
    pub(super) const NEW_DEPLOYMENT: &str = "attribute_not_exists(deploymentId) OR expiresAt < :now";
    pub(super) const NEXT_REVISION: &str = "rev = :read AND #status = :pending AND executionArn = :arn";
    pub(super) const NEXT_REVISION_UNOWNED: &str =
        "rev = :read AND #status = :pending AND attribute_not_exists(executionArn)";
    pub(super) const NEW_ROW: &str = "attribute_not_exists(id)";
}

/// Items by table and key: `deployments/checkout-4711`, `registry/cluster/prod-eu`.
pub type Items = BTreeMap<String, Value>;

/// The connection ends without an answer.
#[derive(Debug, thiserror::Error)]
#[error("connection reset by peer")]
pub struct Reset;

/// What happens to the items before a request is served.
type Meanwhile = dyn Fn(&mut Items) + Send + Sync;

/// What is heard of a request.
#[derive(Clone)]
enum Heard {
    /// The answer.
    Answer,
    /// Another answer.
    Other(u16, String),
    /// The connection's end.
    Reset,
    /// Nothing, ever.
    Nothing,
}

/// What becomes of one request: whether it is done, and what is heard of it.
#[derive(Clone)]
pub struct Fate {
    delay: Duration,
    meanwhile: Option<Arc<Meanwhile>>,
    done: bool,
    late: bool,
    old_item: bool,
    heard: Heard,
}

impl Fate {
    fn heard(heard: Heard) -> Self {
        Self { delay: Duration::ZERO, meanwhile: None, done: false, late: false, old_item: true, heard }
    }

    /// Nothing goes wrong.
    #[must_use]
    pub fn fine() -> Self {
        Self { done: true, ..Self::heard(Heard::Answer) }
    }

    /// Refused by this code; not done.
    #[must_use]
    pub fn refused(status: u16, code: &str) -> Self {
        Self::answered(status, &refusal(code, "on purpose").to_string())
    }

    /// Answered so, whatever was asked; not done.
    #[must_use]
    pub fn answered(status: u16, body: &str) -> Self {
        Self::heard(Heard::Other(status, body.to_owned()))
    }

    /// The connection is reset; not done.
    #[must_use]
    pub fn reset() -> Self {
        Self::heard(Heard::Reset)
    }

    /// Never answered; not done.
    #[must_use]
    pub fn silence() -> Self {
        Self::heard(Heard::Nothing)
    }

    /// Done and answered, so much later.
    #[must_use]
    pub fn slow(delay: Duration) -> Self {
        Self { delay, ..Self::fine() }
    }

    /// Never answered, and on its way until [`FakeAws::deliver`]: done then.
    #[must_use]
    pub fn late() -> Self {
        Self { late: true, ..Self::heard(Heard::Nothing) }
    }

    /// Done and answered, but this happens to the items first.
    #[must_use]
    pub fn after(meanwhile: impl Fn(&mut Items) + Send + Sync + 'static) -> Self {
        Self { meanwhile: Some(Arc::new(meanwhile)), ..Self::fine() }
    }

    /// The same, but it is done: only the answer is lost.
    #[must_use]
    pub fn but_done(mut self) -> Self {
        self.done = true;
        self
    }

    /// The same; a condition that fails is told without the item that it failed on.
    #[must_use]
    pub fn without_old_item(mut self) -> Self {
        self.old_item = false;
        self
    }
}

impl fmt::Debug for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heard = match &self.heard {
            Heard::Answer => "answer".to_owned(),
            Heard::Other(status, body) => format!("{status} {body}"),
            Heard::Reset => "reset".to_owned(),
            Heard::Nothing => "nothing".to_owned(),
        };
        f.debug_struct("Fate").field("done", &self.done).field("heard", &heard).finish_non_exhaustive()
    }
}

/// A version of an item; `None`: it was deleted.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    /// As in [`Items`].
    pub key: String,
    /// The attributes, as DynamoDB's JSON.
    pub item: Option<Value>,
    /// Whether a request made it; else it was made beside all requests, by [`Fate::after`] or
    /// [`FakeAws::change`].
    pub by_request: bool,
}

/// A request that nobody waits for any more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Abandoned {
    /// As in [`FakeAws::requests`].
    pub request: String,
    /// Whether it was done by then.
    pub done: bool,
}

#[derive(Default)]
struct State {
    items: Items,
    secrets: BTreeMap<String, String>,
    fates: BTreeMap<String, VecDeque<(Fate, usize)>>,
    late: Vec<(String, Value)>,
    requests: Vec<String>,
    abandoned: Vec<Abandoned>,
    versions: Vec<Version>,
    published: Vec<Value>,
}

/// DynamoDB, Secrets Manager and EventBridge in one.
///
/// ```no_run
/// # async fn example(request: http::Request<bytes::Bytes>) -> Result<(), testkit::aws::Reset> {
/// use testkit::aws::{FakeAws, Fate};
///
/// let aws = FakeAws::default();
/// // The next write of a deployment is done, and its answer lost.
/// aws.fate("PutItem deployments", Fate::reset().but_done(), 1);
/// // The transport is the caller's: a connector inside the SDK, or a server on a socket.
/// let answer = aws.respond(request).await?;
/// assert_eq!(aws.requests(), ["PutItem deployments"]);
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct FakeAws(Mutex<State>);

impl fmt::Debug for FakeAws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeAws")
    }
}

impl FakeAws {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of the next `times` requests of this kind: operation and table, secret's
    /// name or bus, as `GetItem deployments`. Fates of one kind are met in the order given.
    pub fn fate(&self, kind: &str, fate: Fate, times: usize) {
        self.state().fates.entry(kind.to_owned()).or_default().push_back((fate, times));
    }

    /// From now on nothing goes wrong.
    pub fn heal(&self) {
        self.state().fates.clear();
    }

    /// All requests, in order: operation and table, secret's name or bus. A try again is another one.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// The requests that were given up before they were answered.
    #[must_use]
    pub fn abandoned(&self) -> Vec<Abandoned> {
        self.state().abandoned.clone()
    }

    /// All versions of all items, in order.
    #[must_use]
    pub fn versions(&self) -> Vec<Version> {
        self.state().versions.clone()
    }

    /// The entries of all events, in order.
    #[must_use]
    pub fn published(&self) -> Vec<Value> {
        self.state().published.clone()
    }

    /// The items as they are.
    #[must_use]
    pub fn items(&self) -> Items {
        self.state().items.clone()
    }

    /// Changes the items, as somebody else's requests do.
    pub fn change(&self, change: impl FnOnce(&mut Items)) {
        self.state().change(change);
    }

    /// What was on its way ([`Fate::late`]) arrives.
    pub fn deliver(&self) {
        let mut state = self.state();
        for (kind, body) in std::mem::take(&mut state.late) {
            let _unheard = state.serve(&kind, &body, true);
        }
    }

    /// Serves one request in one of AWS's JSON protocols. It waits a moment before it is done
    /// and once more before it is answered, so that who asks can be killed at either.
    ///
    /// # Errors
    /// [`Reset`], where that is the request's fate.
    pub async fn respond(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Reset> {
        let target = request.headers().get("x-amz-target").and_then(|it| it.to_str().ok());
        let operation = target.and_then(|it| it.rsplit('.').next()).unwrap_or_default().to_owned();
        let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let kind = format!("{operation} {}", resource(&body));
        let fate = self.state().begin(&kind);
        let mut given_up = GivenUp { aws: self, request: Some(kind.clone()), done: false };

        // Even a sleep of nothing can last until the timer's next millisecond.
        if !fate.delay.is_zero() {
            tokio::time::sleep(fate.delay).await;
        }
        yield_now().await;
        let mut answer = (200, json!({}));
        {
            let mut state = self.state();
            if let Some(meanwhile) = &fate.meanwhile {
                state.change(|items| meanwhile(items));
            }
            if fate.late {
                state.late.push((kind.clone(), body));
            } else if fate.done {
                answer = state.serve(&kind, &body, fate.old_item);
                given_up.done = true;
            }
        }
        yield_now().await;
        let (status, body) = match fate.heard {
            Heard::Answer => (answer.0, answer.1.to_string()),
            Heard::Other(status, body) => (status, body),
            Heard::Reset => {
                given_up.request = None;
                return Err(Reset);
            }
            Heard::Nothing => std::future::pending().await,
        };
        given_up.request = None;
        let mut response = Response::new(Bytes::from(body));
        // A status that is none shows in the test.
        *response.status_mut() = status.try_into().unwrap_or_default();
        Ok(response)
    }
}

/// Writes down that a request was dropped unanswered.
struct GivenUp<'a> {
    aws: &'a FakeAws,
    request: Option<String>,
    done: bool,
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if let Some(request) = self.request.take() {
            self.aws.state().abandoned.push(Abandoned { request, done: self.done });
        }
    }
}

impl State {
    fn begin(&mut self, kind: &str) -> Fate {
        self.requests.push(kind.to_owned());
        let Some(fates) = self.fates.get_mut(kind) else { return Fate::fine() };
        let Some((fate, times)) = fates.front_mut() else { return Fate::fine() };
        let fate = fate.clone();
        *times = times.saturating_sub(1);
        if *times == 0 {
            fates.pop_front();
        }
        fate
    }

    fn change(&mut self, change: impl FnOnce(&mut Items)) {
        let before = self.items.clone();
        change(&mut self.items);
        let keys = before.keys().chain(self.items.keys().filter(|key| !before.contains_key(*key)));
        let changed = keys.filter(|key| before.get(*key) != self.items.get(*key));
        let version = |key: &String| Version {
            key: key.clone(),
            item: self.items.get(key).cloned(),
            by_request: false,
        };
        self.versions.extend(changed.map(version));
    }

    fn serve(&mut self, kind: &str, body: &Value, old_item: bool) -> (u16, Value) {
        let served = match kind.split(' ').next().unwrap_or_default() {
            "GetItem" => self.get_item(body),
            "PutItem" => self.put_item(body, old_item),
            "CreateSecret" => self.create_secret(body),
            "GetSecretValue" => self.get_secret_value(body),
            "PutEvents" => self.put_events(body),
            other => Err(refusal("UnknownOperationException", other)),
        };
        match served {
            Ok(answer) => (200, answer),
            Err(refusal) => (400, refusal),
        }
    }

    /// Not consistently read, an item is what it was before the last write of it: DynamoDB
    /// promises no more.
    fn get_item(&self, body: &Value) -> Result<Value, Value> {
        let key = key(body, &body["Key"])?;
        let item = if body["ConsistentRead"] == true {
            self.items.get(&key).cloned()
        } else {
            let mut versions = self.versions.iter().rev().filter(|it| it.key == key);
            versions.nth(1).and_then(|it| it.item.clone())
        };
        Ok(item.map_or_else(|| json!({}), |item| json!({"Item": item})))
    }

    fn put_item(&mut self, body: &Value, old_item: bool) -> Result<Value, Value> {
        let item = &body["Item"];
        let key = key(body, item)?;
        let there = self.items.get(&key);
        if !holds(body, there)? {
            let mut failed = refusal("ConditionalCheckFailedException", "The conditional request failed");
            let told = body["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD" && old_item;
            if let Some(there) = there.filter(|_| told) {
                failed["Item"] = there.clone();
            }
            return Err(failed);
        }
        self.items.insert(key.clone(), item.clone());
        self.versions.push(Version { key, item: Some(item.clone()), by_request: true });
        Ok(json!({}))
    }

    fn create_secret(&mut self, body: &Value) -> Result<Value, Value> {
        let name = text(body, "Name")?;
        if self.secrets.contains_key(&name) {
            return Err(refusal("ResourceExistsException", "the secret exists already"));
        }
        self.secrets.insert(name.clone(), text(body, "SecretString")?);
        Ok(json!({"Name": name}))
    }

    fn get_secret_value(&self, body: &Value) -> Result<Value, Value> {
        let name = text(body, "SecretId")?;
        let Some(secret) = self.secrets.get(&name) else {
            return Err(refusal(
                "ResourceNotFoundException",
                "Secrets Manager can't find the specified secret.",
            ));
        };
        Ok(json!({"Name": name, "SecretString": secret}))
    }

    fn put_events(&mut self, body: &Value) -> Result<Value, Value> {
        let entries = body["Entries"].as_array().ok_or_else(|| invalid("no Entries"))?;
        self.published.extend(entries.iter().cloned());
        let taken: Vec<Value> = entries.iter().map(|_| json!({"EventId": "on-purpose"})).collect();
        Ok(json!({"FailedEntryCount": 0, "Entries": taken}))
    }
}

/// The table, the secret's name or the bus.
fn resource(body: &Value) -> &str {
    let named = ["TableName", "SecretId", "Name"].iter().find_map(|it| body[it].as_str());
    named.or_else(|| body["Entries"][0]["EventBusName"].as_str()).unwrap_or_default()
}

fn key(body: &Value, attributes: &Value) -> Result<String, Value> {
    let table = text(body, "TableName")?;
    let attribute = |name: &str| attributes[name]["S"].as_str();
    match (attribute("deploymentId"), attribute("kind"), attribute("id")) {
        (Some(deployment), None, None) => Ok(format!("{table}/{deployment}")),
        (None, Some(kind), Some(id)) => Ok(format!("{table}/{kind}/{id}")),
        _ => Err(invalid("the key has other attributes than the tables have")),
    }
}

/// Whether a write's condition holds. A write without one is done, as DynamoDB does it.
fn holds(body: &Value, there: Option<&Value>) -> Result<bool, Value> {
    let Some(expression) = body["ConditionExpression"].as_str() else { return Ok(true) };
    let empty = Map::new();
    let names = body["ExpressionAttributeNames"].as_object().unwrap_or(&empty);
    let values = body["ExpressionAttributeValues"].as_object().unwrap_or(&empty);
    let used = |name: &&String| expression.split(|c: char| " ()<=".contains(c)).any(|word| word == *name);
    if let Some(unused) = names.keys().chain(values.keys()).find(|name| !used(name)) {
        return Err(invalid(&format!("{unused} is used in no expression")));
    }
    let value = |name: &str| values.get(name).ok_or_else(|| invalid(&format!("{name} is not defined")));
    let is = |name: &str, wanted: &Value| there.is_some_and(|it| it[name] == *wanted);
    let next = |owned: bool| -> Result<bool, Value> {
        if names.get("#status") != Some(&json!("status")) {
            return Err(invalid("#status is not defined"));
        }
        Ok(is("rev", value(":read")?) && is("status", value(":pending")?) && owned)
    };
    match expression {
        condition::NEW_ROW => Ok(there.is_none()),
        condition::NEW_DEPLOYMENT => {
            let now = number(value(":now")?).ok_or_else(|| invalid(":now is no number"))?;
            let expired = |it: &Value| number(&it["expiresAt"]).is_some_and(|end| end < now);
            Ok(there.is_none_or(expired))
        }
        condition::NEXT_REVISION => next(is("executionArn", value(":arn")?)),
        condition::NEXT_REVISION_UNOWNED => next(there.is_some_and(|it| it["executionArn"].is_null())),
        unknown => Err(invalid(&format!("no adapter has the condition {unknown}"))),
    }
}

fn number(attribute: &Value) -> Option<i128> {
    attribute["N"].as_str()?.parse().ok()
}

fn text(body: &Value, name: &str) -> Result<String, Value> {
    body[name].as_str().map(str::to_owned).ok_or_else(|| invalid(&format!("no {name}")))
}

fn invalid(message: &str) -> Value {
    refusal("ValidationException", message)
}

fn refusal(code: &str, message: &str) -> Value {
    json!({"__type": format!("com.amazonaws#{code}"), "message": message})
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(aws: &FakeAws, operation: &str, body: Value) -> Result<(u16, Value), Reset> {
        let request = Request::builder().header("x-amz-target", format!("Any_20120810.{operation}"));
        let response = aws.respond(request.body(Bytes::from(body.to_string())).unwrap()).await?;
        let status = response.status().as_u16();
        Ok((status, serde_json::from_slice(response.body()).unwrap_or_default()))
    }

    fn get(consistent: bool) -> Value {
        json!({"TableName": "t", "Key": {"deploymentId": {"S": "d"}}, "ConsistentRead": consistent})
    }

    fn create(message: &str) -> Value {
        json!({
            "TableName": "t",
            "Item": {"deploymentId": {"S": "d"}, "message": {"S": message}, "expiresAt": {"N": "7"}},
            "ConditionExpression": condition::NEW_DEPLOYMENT,
            "ExpressionAttributeValues": {":now": {"N": "7"}},
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        })
    }

    fn code(answer: &Value) -> &str {
        answer["__type"].as_str().unwrap().rsplit('#').next().unwrap()
    }

    #[tokio::test]
    async fn an_item_is_what_was_written_and_unread_it_is_older() {
        let aws = FakeAws::default();
        assert_eq!(asked(&aws, "GetItem", get(true)).await.unwrap(), (200, json!({})));
        assert_eq!(asked(&aws, "PutItem", create("one")).await.unwrap(), (200, json!({})));
        let item = create("one")["Item"].take();
        assert_eq!(asked(&aws, "GetItem", get(true)).await.unwrap().1["Item"], item);
        assert_eq!(asked(&aws, "GetItem", get(false)).await.unwrap(), (200, json!({})));
        assert_eq!(aws.versions(), [Version { key: "t/d".to_owned(), item: Some(item), by_request: true }]);
        aws.change(Items::clear);
        assert_eq!(aws.versions()[1], Version { key: "t/d".to_owned(), item: None, by_request: false });
    }

    #[tokio::test]
    async fn a_condition_that_fails_tells_the_item_and_an_unknown_one_is_refused() {
        let aws = FakeAws::default();
        asked(&aws, "PutItem", create("one")).await.unwrap();
        let (status, failed) = asked(&aws, "PutItem", create("two")).await.unwrap();
        assert_eq!((status, code(&failed)), (400, "ConditionalCheckFailedException"));
        assert_eq!(failed["Item"], create("one")["Item"]);
        aws.fate("PutItem t", Fate::fine().without_old_item(), 1);
        assert!(asked(&aws, "PutItem", create("two")).await.unwrap().1["Item"].is_null());

        let mut expired = create("two");
        expired["ExpressionAttributeValues"][":now"]["N"] = json!("8");
        assert_eq!(asked(&aws, "PutItem", expired).await.unwrap().0, 200);

        let mut unknown = create("three");
        unknown["ConditionExpression"] = json!("attribute_exists(:now)");
        assert_eq!(code(&asked(&aws, "PutItem", unknown).await.unwrap().1), "ValidationException");
        let mut unused = create("three");
        unused["ExpressionAttributeValues"][":more"] = json!({"N": "1"});
        assert_eq!(code(&asked(&aws, "PutItem", unused).await.unwrap().1), "ValidationException");
    }

    #[tokio::test]
    async fn a_request_meets_its_fate_so_often() {
        let aws = FakeAws::default();
        aws.fate("PutItem t", Fate::reset(), 1);
        aws.fate("PutItem t", Fate::refused(500, "InternalServerError").but_done(), 1);
        assert!(asked(&aws, "PutItem", create("lost")).await.is_err());
        assert!(aws.items().is_empty());
        let (status, refused) = asked(&aws, "PutItem", create("unheard")).await.unwrap();
        assert_eq!((status, code(&refused)), (500, "InternalServerError"));
        assert_eq!(aws.items()["t/d"]["message"]["S"], "unheard");
        assert_eq!(asked(&aws, "GetItem", get(true)).await.unwrap().0, 200);
        assert_eq!(aws.requests(), ["PutItem t", "PutItem t", "GetItem t"]);

        aws.fate("GetItem t", Fate::silence(), usize::MAX);
        let unheard = tokio::time::timeout(Duration::from_millis(1), asked(&aws, "GetItem", get(true)));
        assert!(unheard.await.is_err());
        assert_eq!(aws.abandoned(), [Abandoned { request: "GetItem t".to_owned(), done: false }]);
        aws.heal();
        assert_eq!(asked(&aws, "GetItem", get(true)).await.unwrap().0, 200);
    }

    #[tokio::test]
    async fn what_is_late_is_done_when_it_arrives() {
        let aws = FakeAws::default();
        aws.fate("PutItem t", Fate::late(), 1);
        let unheard = tokio::time::timeout(Duration::from_millis(1), asked(&aws, "PutItem", create("late")));
        assert!(unheard.await.is_err());
        assert!(aws.items().is_empty());
        aws.deliver();
        assert_eq!(aws.items()["t/d"]["message"]["S"], "late");
    }

    #[tokio::test]
    async fn secrets_and_events_are_kept() {
        let aws = FakeAws::default();
        let secret = json!({"Name": "s", "SecretString": "body"});
        assert_eq!(asked(&aws, "CreateSecret", secret.clone()).await.unwrap().0, 200);
        assert_eq!(code(&asked(&aws, "CreateSecret", secret).await.unwrap().1), "ResourceExistsException");
        let read = asked(&aws, "GetSecretValue", json!({"SecretId": "s"})).await.unwrap();
        assert_eq!(read.1["SecretString"], "body");
        let absent = asked(&aws, "GetSecretValue", json!({"SecretId": "other"})).await.unwrap();
        assert_eq!(code(&absent.1), "ResourceNotFoundException");

        let entry = json!({"EventBusName": "b", "Detail": "{}"});
        let taken = asked(&aws, "PutEvents", json!({"Entries": [entry]})).await.unwrap();
        assert_eq!(taken.1["FailedEntryCount"], 0);
        assert_eq!(aws.published(), [entry]);
        assert_eq!(aws.requests().last().unwrap(), "PutEvents b");
        assert_eq!(
            code(&asked(&aws, "DescribeTable", json!({"TableName": "t"})).await.unwrap().1),
            "UnknownOperationException"
        );
    }
}
