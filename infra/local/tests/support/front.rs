//! AWS as the program meets it: a CloudFormation that knows one stack, who gives
//! credentials, and an API Gateway that looks at signatures, before the API of a real
//! `dag-monitor serve`.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Request, Response, body::Bytes, body::Incoming, server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::oneshot,
    task::{LocalSet, spawn_local},
};

use super::{Served, signature};

pub(crate) const KEY_ID: &str = "AKIDOFTESTS";
pub(crate) const SECRET: &str = "secret-of-tests";
pub(crate) const SESSION: &str = "session-of-tests";
pub(crate) const REGION: &str = "eu-central-1";
pub(crate) const ACCOUNT: &str = "123456789012";
pub(crate) const ROLE: &str = "Deployer";
pub(crate) const SSO_TOKEN: &str = "sso-token-of-tests";
pub(crate) const STACK: &str = "dag-monitor-tests";

/// What becomes of one request to the API.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    /// The connection is closed, unanswered; whether it is done nevertheless.
    Closed { done: bool },
    /// Answered so, and not done.
    Answered(u16, Value),
}

/// One request that came to the API.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Method and path, as `POST /deployments`.
    pub(crate) what: String,
    pub(crate) query: String,
    pub(crate) body: Value,
    pub(crate) authorization: String,
    pub(crate) session: Option<String>,
}

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    /// By the beginning of method and path.
    fates: VecDeque<(String, Fate)>,
}

pub(crate) struct Front {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
}

impl Front {
    /// On a thread of its own, which also holds the process with the API.
    pub(crate) fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let (stop, stopped) = oneshot::channel();
        let known = Arc::clone(&state);
        let serving = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            LocalSet::new().block_on(&runtime, async {
                tokio::select! {
                    () = accept(listener, address, known) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, state, stop: Some(stop), serving: Some(serving) }
    }

    /// As the variable AWS_ENDPOINT_URL names it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next request of this kind, as `GET /deployments/`, meets this.
    pub(crate) fn fate(&self, kind: &str, fate: Fate) {
        self.state.lock().unwrap().fates.push_back((kind.to_owned(), fate));
    }

    /// How many fates nobody has met yet.
    pub(crate) fn fates_left(&self) -> usize {
        self.state.lock().unwrap().fates.len()
    }

    /// The requests to the API whose method and path begin so.
    pub(crate) fn asked(&self, kind: &str) -> Vec<Asked> {
        let state = self.state.lock().unwrap();
        state.asked.iter().filter(|it| it.what.starts_with(kind)).cloned().collect()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        drop(self.stop.take());
        // It may have failed, and the test says so.
        let _ = self.serving.take().map(JoinHandle::join);
    }
}

async fn accept(listener: std::net::TcpListener, address: SocketAddr, state: Arc<Mutex<State>>) {
    let served = Rc::new(Served::start(&["--allow-cidr", "127.0.0.0/8"]));
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (state, served) = (Arc::clone(&state), Rc::clone(&served));
        spawn_local(async move {
            let answer = service_fn(|request| answer(request, address, &state, &served));
            // A connection that was closed on purpose is an error to hyper.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

type Answer = Response<Full<Bytes>>;

fn text(status: u16, body: String) -> Answer {
    Response::builder().status(status).body(Full::new(Bytes::from(body))).unwrap()
}

async fn answer(
    request: Request<Incoming>,
    address: SocketAddr,
    state: &Mutex<State>,
    served: &Served,
) -> Result<Answer, io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default().to_owned());
    let Some(route) = path.strip_prefix("/v1") else {
        if path == "/federation/credentials" {
            return Ok(sso(&parts.headers, &query));
        }
        let asked = (parts.method.as_str(), path.as_str(), query.as_str());
        let signed = |service| signature::check(asked, &parts.headers, &body, SECRET, service);
        return Ok(if String::from_utf8_lossy(&body).contains("Action=AssumeRole&") {
            sts(signed("sts"), &body)
        } else {
            cloudformation(signed("cloudformation"), &body, address)
        });
    };
    let header = |name: &str| parts.headers.get(name).and_then(|it| it.to_str().ok()).map(str::to_owned);
    let asked = Asked {
        what: format!("{} {route}", parts.method),
        query: query.clone(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
        authorization: header("authorization").unwrap_or_default(),
        session: header("x-amz-security-token"),
    };
    let fate = {
        let mut state = state.lock().unwrap();
        state.asked.push(asked.clone());
        let index = state.fates.iter().position(|(kind, _)| asked.what.starts_with(kind));
        index.and_then(|index| state.fates.remove(index)).map(|(_, fate)| fate)
    };
    // A key is for `dag-monitor serve` to look at.
    if !asked.authorization.starts_with("Bearer ") {
        let method = parts.method.as_str();
        let signed = signature::check((method, &path, &query), &parts.headers, &body, SECRET, "execute-api");
        match signed {
            Ok(by) if by == (KEY_ID.to_owned(), REGION.to_owned()) => {}
            Ok((_, region)) => return Ok(text(403, json!({"message": region}).to_string())),
            Err(why) => return Ok(text(403, json!({"message": why}).to_string())),
        }
    }
    let done = async {
        let path = if query.is_empty() { route.to_owned() } else { format!("{route}?{query}") };
        let (host, body) = (served.address.to_string(), String::from_utf8_lossy(&body).into_owned());
        let bearer = served.bearer();
        let mut headers = vec![("host", host.as_str()), ("authorization", bearer.as_str())];
        let content_type = header("content-type");
        headers.extend(content_type.iter().map(|it| ("content-type", it.as_str())));
        served.send(parts.method.clone(), &path, &headers, &body).await
    };
    let (status, answer) = match fate {
        Some(Fate::Closed { done: is_done }) => {
            if is_done {
                done.await;
            }
            return Err(io::Error::other("closed on purpose"));
        }
        Some(Fate::Answered(status, body)) => (status, body),
        None => done.await,
    };
    Ok(text(status, if answer.is_null() { String::new() } else { answer.to_string() }))
}

/// IAM Identity Center: gives the role's credentials for the token of a session.
fn sso(headers: &HeaderMap, query: &str) -> Answer {
    let asked = [format!("account_id={ACCOUNT}"), format!("role_name={ROLE}")];
    let token = headers.get("x-amz-sso_bearer_token").and_then(|it| it.to_str().ok());
    if token != Some(SSO_TOKEN) || !asked.iter().all(|it| query.split('&').any(|part| part == it)) {
        return text(401, json!({"message": "Session token not found or invalid"}).to_string());
    }
    let credentials = json!({
        "accessKeyId": KEY_ID, "secretAccessKey": SECRET, "sessionToken": SESSION,
        "expiration": 32_472_144_000_000_u64,
    });
    text(200, json!({"roleCredentials": credentials}).to_string())
}

/// Gives the role to whoever signs as the tests do.
fn sts(signed: Result<(String, String), String>, body: &[u8]) -> Answer {
    let role = format!("RoleArn=arn%3Aaws%3Aiam%3A%3A{ACCOUNT}%3Arole%2F{ROLE}");
    if signed.is_err() || !String::from_utf8_lossy(body).split('&').any(|it| it == role) {
        return text(
            403,
            "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>".to_owned(),
        );
    }
    text(
        200,
        format!(
            "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
             <AccessKeyId>{KEY_ID}</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey>\
             <SessionToken>{SESSION}</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration></Credentials>\
             <AssumedRoleUser><AssumedRoleId>AROA:x</AssumedRoleId><Arn>arn:aws:sts::{ACCOUNT}:assumed-role/{ROLE}/x</Arn>\
             </AssumedRoleUser></AssumeRoleResult></AssumeRoleResponse>"
        ),
    )
}

/// Knows one stack, and whoever signs as the tests do.
fn cloudformation(signed: Result<(String, String), String>, body: &[u8], address: SocketAddr) -> Answer {
    let refused = |status, code: &str, message: &str| {
        let error =
            format!("<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>");
        let xmlns = "http://cloudformation.amazonaws.com/doc/2010-05-15/";
        text(status, format!("<ErrorResponse xmlns=\"{xmlns}\">{error}</ErrorResponse>"))
    };
    match signed {
        Ok((key_id, _)) if key_id == KEY_ID => {}
        _ => return refused(403, "SignatureDoesNotMatch", "The request signature does not match"),
    }
    match String::from_utf8_lossy(body).split('&').find_map(|it| it.strip_prefix("StackName=")) {
        Some(STACK) => {}
        Some("forbidden") => return refused(403, "AccessDenied", "User: x is not authorized"),
        name => {
            let message = format!("Stack with id {} does not exist", name.unwrap_or_default());
            return refused(400, "ValidationError", &message);
        }
    }
    let output = |name: &str, value: &str| {
        format!("<member><OutputKey>{name}</OutputKey><OutputValue>{value}</OutputValue></member>")
    };
    let outputs = output("StateMachineArn", "arn:aws:states:eu-central-1:1:stateMachine:m")
        + &output("ApiUrl", &format!("http://{address}/v1"));
    text(
        200,
        format!(
            "<DescribeStacksResponse><DescribeStacksResult><Stacks><member><StackName>{STACK}</StackName>\
             <Outputs>{outputs}</Outputs></member></Stacks></DescribeStacksResult></DescribeStacksResponse>"
        ),
    )
}
