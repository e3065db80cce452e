//! What the function is called with: requests that API Gateway lets through, and the
//! schedule of the daily probe.

use std::{convert::Infallible, fmt};

use axum::{Router, response::Response};
use base64::{Engine, engine::general_purpose::STANDARD};
use lambda_http::{
    Adapter, Body, LambdaEvent, Request, RequestExt,
    aws_lambda_events::apigw::ApiGatewayProxyRequest,
    http::{Method, header::HOST},
    lambda_runtime::Diagnostic,
    request::{LambdaRequest, RequestContext},
};
use monitor::{
    check::chain,
    register::{RegisterError, Registrar, Swept},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tower::{ServiceExt as _, service_fn};
use zeroize::Zeroize as _;

/// What a schedule sends: source and detail-type (Amazon EventBridge User Guide,
/// "Creating a rule that runs on a schedule").
const SCHEDULE: (&str, &str) = ("aws.events", "Scheduled Event");

/// The longest path with its query, in bytes: API Gateway takes 10,240 with all headers (Amazon API Gateway developer
/// guide, "Quotas for configuring and running a REST API"), and an address of more than 64 KiB can't be made.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// The names of this function's errors, for alarms and for whoever reads what became of
/// an event. A request that is refused is no error of the function.
pub const ERROR_NAMES: [&str; 2] = ["UnknownEvent", "ProbesNotDone"];

/// What serves the events.
#[derive(Clone)]
pub struct Function {
    /// Serves the requests.
    pub router: Router,
    /// Does the daily probe.
    pub registrar: Registrar,
}

/// Why an event was not served.
#[derive(thiserror::Error)]
pub enum Failure {
    /// Nobody sends this function such events. What came is not told: a request holds a token.
    #[error("the event is neither a request of API Gateway's (REST API, proxy integration) nor a schedule's")]
    UnknownEvent,
    /// The daily probe could not be done: not even which clusters there are is known.
    #[error("the clusters could not be probed")]
    ProbesNotDone(#[from] RegisterError),
}

impl fmt::Debug for Failure {
    /// What the runtime writes into the log: the chain of causes, once.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(self))
    }
}

impl From<Failure> for Diagnostic {
    fn from(failure: Failure) -> Self {
        let [unknown, not_done] = ERROR_NAMES;
        let name = match failure {
            Failure::UnknownEvent => unknown,
            Failure::ProbesNotDone(_) => not_done,
        };
        Self { error_type: name.to_owned(), error_message: failure.to_string() }
    }
}

/// What the function answers.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Served<R> {
    /// To API Gateway.
    Response(R),
    /// To the schedule, which doesn't read it; whoever calls the function by hand does.
    Probes {
        /// How many clusters were probed.
        probed: usize,
        /// Of how many somebody was told to look at them.
        attention: usize,
        /// How many there was no time for.
        left: usize,
    },
}

/// As much of an event as tells what it is.
#[derive(Deserialize)]
struct Shape<'a> {
    #[serde(default, borrow)]
    source: Option<&'a RawValue>,
    #[serde(default, borrow, rename = "detail-type")]
    detail_type: Option<&'a RawValue>,
}

impl Shape<'_> {
    fn is_schedule(&self) -> bool {
        let text =
            |raw: Option<&RawValue>| raw.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        let (source, detail_type) = SCHEDULE;
        text(self.source).as_deref() == Some(source) && text(self.detail_type).as_deref() == Some(detail_type)
    }
}

/// Serves one event: a request, or the schedule of the daily probe.
///
/// # Errors
/// [`Failure`], by one of [`ERROR_NAMES`]: Lambda calls again, and then keeps the event.
pub async fn handle(
    function: &Function,
    LambdaEvent { payload, context }: LambdaEvent<Box<RawValue>>,
) -> Result<Served<impl Serialize + fmt::Debug + use<>>, Failure> {
    let event = Event::read(payload)?;
    let (request, body) = match event {
        Event::Schedule => {
            let Swept { probed, attention, left } = function.registrar.probe_all().await?;
            tracing::info!(probed, attention, left, "clusters probed");
            return Ok(Served::Probes { probed, attention, left });
        }
        Event::Request(request, body) => (request, body),
    };
    let router = function.router.clone();
    let mut body = Some(body);
    let service = service_fn(move |mut request: Request| {
        // The service is called once.
        *request.body_mut() = body.take().unwrap_or_default();
        tell_of_changes(&request);
        router.clone().oneshot(request)
    });
    let event = LambdaEvent::new(LambdaRequest::ApiGatewayV1(*request), context);
    let answered: Result<_, Infallible> = Adapter::<'_, Response, _>::from(service).oneshot(event).await;
    let Ok(response) = answered;
    Ok(Served::Response(response))
}

enum Event {
    Schedule,
    /// Its body apart: the adapter would copy it, and not wipe what it copied from.
    Request(Box<ApiGatewayProxyRequest>, Body),
}

impl Event {
    fn read(payload: Box<RawValue>) -> Result<Self, Failure> {
        let read = Self::read_text(payload.get());
        // A registration's token is in it.
        Box::<str>::from(payload).into_string().zeroize();
        read
    }

    fn read_text(text: &str) -> Result<Self, Failure> {
        let shape: Shape<'_> = serde_json::from_str(text).map_err(|_| Failure::UnknownEvent)?;
        if shape.is_schedule() {
            return Ok(Self::Schedule);
        }
        let mut request: ApiGatewayProxyRequest =
            serde_json::from_str(text).map_err(|_| Failure::UnknownEvent)?;
        let path = request.path.as_deref().unwrap_or_default();
        let stage = request.request_context.stage.as_deref().unwrap_or_default();
        let queries = [&request.query_string_parameters, &request.multi_value_query_string_parameters];
        let query =
            queries.into_iter().flat_map(|it| it.iter()).map(|(name, value)| name.len() + value.len());
        if !path.starts_with('/') || stage.len() + path.len() + query.sum::<usize>() > MAX_LINE_BYTES {
            return Err(Failure::UnknownEvent);
        }
        // The adapter makes an address of scheme, host and path, and panics where it is none; the routes know paths alone.
        request.headers.remove(HOST);
        request.request_context.domain_name = None;
        let body = match request.body.take() {
            None => Body::Empty,
            // Only where the API were given binary media types, which ours has not.
            Some(mut body) if request.is_base64_encoded => {
                let decoded = STANDARD.decode(&body);
                body.zeroize();
                Body::Binary(decoded.map_err(|_| Failure::UnknownEvent)?)
            }
            Some(body) => Body::Text(body),
        };
        Ok(Self::Request(Box::new(request), body))
    }
}

/// Who changed what: the access log has no names, and CloudTrail doesn't see the calls
/// of an API.
fn tell_of_changes(request: &Request) {
    if !matches!(*request.method(), Method::POST | Method::PUT | Method::DELETE) {
        return;
    }
    let caller = match request.request_context_ref() {
        Some(RequestContext::ApiGatewayV1(context)) => context.identity.user_arn.as_deref(),
        _ => None,
    };
    tracing::info!(
        caller = caller.unwrap_or("unknown"),
        method = request.method().as_str(),
        path = request.uri().path(),
        "called"
    );
}
