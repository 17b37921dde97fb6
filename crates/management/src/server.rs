//! Serves the API over HTTP/1.1: who asks, what is asked, and how many requests at a time.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tracing::warn;

use crate::app::App;
use crate::audit;
use crate::body::{self, Takes};
use crate::call::Call;
use crate::caller::{Caller, Clearance};
use crate::endpoint::{Endpoint, Verb};
use crate::problem::Problem;
use crate::routes::ENDPOINTS;
use crate::turns::Turns;

/// Of a request that is refused for its head so much of a body is read, and for so long, so that
/// the client can go on with the same connection.
const UNREAD_BYTES_MAX: usize = 1 << 20;
const UNREAD_TIME: Duration = Duration::from_secs(2);
/// The same of a request whose body is too large, or too large just now: a client that is cut off
/// while it sends may never read why.
const REFUSED_BYTES_MAX: usize = 64 << 20;
const REFUSED_TIME: Duration = Duration::from_secs(10);
/// Definitions wait so long for others that are being imported, and are then to be sent again after
/// so many seconds.
const IMPORT_PATIENCE: Duration = Duration::from_secs(30);
const IMPORT_RETRY_S: u32 = 5;
/// How long a browser may remember what it was told.
const CORS_AGE: Duration = Duration::from_secs(30 * 60);

/// What a request needs of the server.
struct RequestShared {
    app: Arc<App>,
    /// One permit for each login that may be checked.
    logins: Arc<Semaphore>,
    /// Requests that are worked on.
    turns: Turns,
}

/// The endpoints of one path.
#[derive(Clone)]
struct AtPath {
    shared: Arc<RequestShared>,
    endpoints: Arc<[Endpoint]>,
}

impl AtPath {
    fn endpoint(&self, method: &Method) -> Option<Endpoint> {
        let verb = Verb::of(method)?;
        let mut endpoints = self.endpoints.iter();
        endpoints.find(|endpoint| endpoint.verb == verb).copied()
    }

    /// Why there is no endpoint for a method.
    fn missing(&self) -> Problem {
        if self.endpoints.is_empty() {
            Problem::NotFound
        } else {
            Problem::MethodNotAllowed
        }
    }
}

/// The API as a service.
pub fn router(app: &Arc<App>) -> Router {
    let max = app.settings.requests_max;
    let shared = Arc::new(RequestShared {
        app: Arc::clone(app),
        logins: Arc::new(Semaphore::new(max)),
        turns: Turns::new(max),
    });
    let mut paths: BTreeMap<&str, Vec<Endpoint>> = BTreeMap::new();
    for endpoint in ENDPOINTS {
        paths.entry(endpoint.path).or_default().push(*endpoint);
    }
    let mut router = Router::new();
    for (path, endpoints) in paths {
        let state = AtPath {
            shared: Arc::clone(&shared),
            endpoints: endpoints.into(),
        };
        router = router.route(path, any(serve).with_state(state));
    }
    let fallback = AtPath {
        shared,
        endpoints: Arc::new([]),
    };
    let router = router.fallback(any(serve).with_state(fallback));
    // Speed counts for more than size: the network is near, and the processor is the broker's.
    let gzip = CompressionLayer::new().quality(CompressionLevel::Fastest);
    let router = router.layer(gzip);
    match cross_origin(&app.settings.cors_origins) {
        Some(layer) => router.layer(layer),
        None => router,
    }
}

/// What browsers are told when a page of another server uses the API.
fn cross_origin(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let layer = CorsLayer::new()
        .allow_methods([
            Method::GET,
            Method::HEAD,
            Method::PUT,
            Method::POST,
            Method::DELETE,
        ])
        .allow_headers(AllowHeaders::mirror_request())
        .max_age(CORS_AGE);
    if origins.iter().any(|origin| origin == "*") {
        return Some(layer.allow_origin(AllowOrigin::any()));
    }
    // One that no header can hold matches no request.
    let origins = origins
        .iter()
        .filter_map(|origin| HeaderValue::from_str(origin).ok());
    Some(
        layer
            .allow_origin(AllowOrigin::list(origins))
            .allow_credentials(true),
    )
}

/// Takes samples of all counters until it is aborted.
pub async fn sample(app: Arc<App>) {
    let mut ticks = interval(Duration::from_millis(app.settings.sample_interval_ms));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let app = Arc::clone(&app);
        let sampled = blocking(move || app.sampler.sample(&app.broker, app.now_ms())).await;
        if sampled.is_err() {
            warn!("a sample could not be taken");
        }
    }
}

async fn serve(State(at): State<AtPath>, parameters: RawPathParams, request: Request) -> Response {
    let head = request.method() == Method::HEAD;
    let mut response = answer(&at, &parameters, request).await;
    let headers = response.headers_mut();
    headers.insert(header::ALLOW, allowed(&at.endpoints));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(
        header::VARY,
        HeaderValue::from_static("accept, accept-encoding, origin"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    if head {
        *response.body_mut() = Body::empty();
    }
    response
}

async fn answer(at: &AtPath, parameters: &RawPathParams, request: Request) -> Response {
    if request.method() == Method::OPTIONS {
        return StatusCode::OK.into_response();
    }
    let (parts, body) = request.into_parts();
    let mut body = Some(body);
    match permitted(at, parameters, (parts, &mut body)).await {
        Ok(response) => response,
        Err(problem) => {
            let (bytes, time) = match problem {
                Problem::TooLarge(_) | Problem::Busy { .. } => (REFUSED_BYTES_MAX, REFUSED_TIME),
                _ => (UNREAD_BYTES_MAX, UNREAD_TIME),
            };
            let mut response = problem.into_response();
            if let Some(unread) = body
                && timeout(time, body::discard(unread, bytes)).await != Ok(true)
            {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            response
        }
    }
}

/// The methods that a path has, in RabbitMQ's order; it names them in each answer.
fn allowed(endpoints: &[Endpoint]) -> HeaderValue {
    let has = |verb: Verb| endpoints.iter().any(|endpoint| endpoint.verb == verb);
    let verbs = [Verb::Get, Verb::Put, Verb::Post, Verb::Delete];
    let named = verbs.into_iter().filter(|verb| has(*verb));
    // What does not exist can be looked for.
    let get = has(Verb::Get) || endpoints.is_empty();
    let mut methods = Vec::from(if get { ["HEAD"].as_slice() } else { &[] });
    if endpoints.is_empty() {
        methods.push("GET");
    }
    methods.extend(named.map(Verb::name));
    methods.push("OPTIONS");
    HeaderValue::from_str(&methods.join(", ")).unwrap_or(HeaderValue::from_static("OPTIONS"))
}

/// Checks the caller before anything else, then takes the body and runs the endpoint. Nobody has a
/// turn while its body has yet to arrive.
async fn permitted(
    at: &AtPath,
    parameters: &RawPathParams,
    (parts, body): (Parts, &mut Option<Body>),
) -> Result<Response, Problem> {
    let app = Arc::clone(&at.shared.app);
    let from = parts.extensions.get().copied().unwrap_or(UNKNOWN);
    let segments = segments(parameters);
    let found = at.endpoint(&parts.method);
    let access = found.map_or(Clearance::Management, |endpoint| endpoint.access);
    let vhost = vhost_of(&segments);
    let (caller, allowed) = log_in(at, parts.headers.clone(), from, (access, vhost)).await?;
    let checked = async {
        allowed?;
        let endpoint = found.ok_or_else(|| at.missing())?;
        let takes = Takes::of(&endpoint);
        let whole = match body.as_mut() {
            Some(arriving) => {
                let taken = body::read(&app, (takes, &caller.name), &parts.headers, arriving);
                Some(taken.await?)
            }
            None => None,
        };
        *body = None;
        let import = match takes {
            Takes::Definitions => Some(import_alone(&app.importing, IMPORT_PATIENCE).await?),
            _ => None,
        };
        Ok((endpoint, whole, import))
    };
    let (endpoint, whole, import) = checked.await.inspect_err(|problem| {
        // A path that does not exist changes nothing, whoever asks.
        if let Some(Endpoint { path, .. }) = at.endpoints.first() {
            let (user, action) = (&*caller.name, parts.method.as_str());
            let segments = &*segments;
            audit::AuditedRequest {
                user,
                from,
                action,
                path,
                segments,
            }
            .refused(problem);
        }
    })?;
    let turn = at.shared.turns.take(&caller.name).await;
    app.broker.set_now(app.now_ms());
    let (body, held) = whole.map(|whole| (whole.bytes, whole.held)).unzip();
    let call = Call {
        app,
        caller,
        path: endpoint.path,
        segments,
        query: query(&parts),
        headers: parts.headers,
        body: body.unwrap_or_default(),
        from,
    };
    let held = (turn, held, import);
    blocking(move || {
        let response = run(&endpoint, &call);
        drop(call);
        drop(held);
        response
    })
    .await
}

/// Who asks, and whether they may.
async fn log_in(
    at: &AtPath,
    headers: HeaderMap,
    from: SocketAddr,
    (access, vhost): (Clearance, Option<String>),
) -> Result<(Caller, Result<(), Problem>), Problem> {
    let app = Arc::clone(&at.shared.app);
    let logins = Arc::clone(&at.shared.logins).acquire_owned().await;
    blocking(move || {
        let caller = Caller::of(&app, &headers, from)?;
        let allowed = caller.check(&app, access, vhost.as_deref());
        drop(logins);
        Ok((caller, allowed))
    })
    .await?
}

/// Waits until no other definitions are imported.
async fn import_alone(
    importing: &Arc<Semaphore>,
    patience: Duration,
) -> Result<OwnedSemaphorePermit, Problem> {
    let alone = timeout(patience, Arc::clone(importing).acquire_owned()).await;
    let busy = || Problem::Busy {
        reason: "other definitions are being imported".to_owned(),
        retry_after_s: IMPORT_RETRY_S,
    };
    alone.ok().and_then(Result::ok).ok_or_else(busy)
}

fn query(parts: &Parts) -> Vec<(String, String)> {
    let query = parts.uri.query().unwrap_or_default();
    form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect()
}

/// Runs an endpoint and notes what it changed.
fn run(endpoint: &Endpoint, call: &Call) -> Response {
    let answer = (endpoint.run)(call);
    audit::note(endpoint, call, &answer);
    answer.into_response()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Problem::Internal(error.to_string()))
}

fn segments(parameters: &RawPathParams) -> Vec<(String, String)> {
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    parameters.iter().map(owned).collect()
}

fn vhost_of(segments: &[(String, String)]) -> Option<String> {
    let found = segments.iter().find(|(name, _)| name == "vhost");
    found.map(|(_, name)| name.clone())
}

/// Stands for a client whose address is not known: it is not the broker's own machine.
const UNKNOWN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn definitions_are_imported_one_file_at_a_time() {
        let importing = Arc::new(Semaphore::new(1));
        let first = import_alone(&importing, Duration::ZERO).await;
        let Err(Problem::Busy { retry_after_s, .. }) =
            import_alone(&importing, Duration::from_millis(10)).await
        else {
            panic!("two at a time")
        };
        assert_eq!(retry_after_s, IMPORT_RETRY_S);
        drop(first);
        assert!(import_alone(&importing, Duration::ZERO).await.is_ok());
    }
}
