//! Bodies of requests: how large one may be at each endpoint, and one budget for all that are in
//! memory.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use http_body::Body as _;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::app::App;
use crate::endpoint::{Endpoint, Verb};
use crate::problem::Problem;

/// What a declaration has besides its arguments.
const DECLARATION_BYTES: usize = 64 * 1024;
/// A value outside of strings takes so many bytes once it is read.
const VALUE_BYTES: usize = 64;
/// A body must have arrived within this time, and a second more for each [`BYTES_A_SECOND`].
const BODY_TIME: Duration = Duration::from_secs(60);
const BYTES_A_SECOND: usize = 256 * 1024;
/// A body of which nothing comes for so long is given up.
const SILENCE: Duration = Duration::from_secs(10);
/// After so many seconds one that found no room tries again.
const RETRY_AFTER_S: u32 = 1;

/// What an endpoint takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// One thing and its arguments, or nothing.
    Declaration,
    /// A message or its properties.
    Message,
    /// Messages of [`Self::Message`]'s kind, or one as it is.
    Ingress,
    /// Definitions, which are read object by object.
    Definitions,
}

impl Takes {
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        let path = endpoint.path;
        if endpoint.verb != Verb::Post {
            Self::Declaration
        } else if path.starts_with("/api/definitions") || path == "/api/all-configuration" {
            Self::Definitions
        } else if path.starts_with("/api/x/publish/") {
            Self::Ingress
        } else if path.ends_with("/publish") || path.starts_with("/api/x/routes/") {
            Self::Message
        } else {
            Self::Declaration
        }
    }

    /// The largest body, bytes.
    fn max(self, app: &App) -> usize {
        match self {
            Self::Declaration => DECLARATION_BYTES + app.broker.limits().arguments_bytes_max,
            Self::Message | Self::Ingress => {
                let message = app.broker.config.max_message_bytes;
                // In base64, with what is around it.
                let encoded = message.div_ceil(3).saturating_mul(4);
                usize::try_from(encoded).map_or(usize::MAX, |bytes| bytes + DECLARATION_BYTES)
            }
            Self::Definitions => app.settings.definitions_bytes_max,
        }
    }

    fn budget(self, app: &App) -> &Arc<BodyBudget> {
        match self {
            Self::Definitions => &app.definitions,
            _ => &app.bodies,
        }
    }
}

/// Bytes that bodies may take together, and how many they do.
#[derive(Debug)]
pub(crate) struct BodyBudget {
    max: usize,
    /// No user has more of it.
    of_one: usize,
    used: Mutex<UsedBytes>,
}

#[derive(Debug, Default)]
struct UsedBytes {
    all: usize,
    of_user: HashMap<String, usize>,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    /// There may be later.
    Now,
    /// There never is for so much.
    Always,
}

impl BodyBudget {
    /// So many bytes for all, of which one user has no more than so many.
    pub(crate) fn new(max: usize, of_one: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            of_one,
            used: Mutex::default(),
        })
    }

    fn open(self: &Arc<Self>, user: &str) -> BodyShare {
        BodyShare {
            budget: Arc::clone(self),
            user: user.to_owned(),
            bytes: 0,
        }
    }
}

/// What one body takes of a budget.
#[derive(Debug)]
pub(crate) struct BodyShare {
    budget: Arc<BodyBudget>,
    user: String,
    bytes: usize,
}

impl BodyShare {
    fn grow(&mut self, bytes: usize) -> Result<(), Full> {
        let budget = &*self.budget;
        if self.bytes.saturating_add(bytes) > budget.of_one {
            return Err(Full::Always);
        }
        let mut used = budget.used.lock();
        let own = used.of_user.get(&self.user).copied().unwrap_or(0);
        if used.all + bytes > budget.max || own + bytes > budget.of_one {
            return Err(Full::Now);
        }
        used.all += bytes;
        match used.of_user.get_mut(&self.user) {
            Some(own) => *own += bytes,
            None => drop(used.of_user.insert(self.user.clone(), bytes)),
        }
        self.bytes += bytes;
        Ok(())
    }

    fn refused(&self, full: Full) -> Problem {
        match full {
            Full::Now => Problem::Busy {
                reason: "too many bodies of requests at once".to_owned(),
                retry_after_s: RETRY_AFTER_S,
            },
            Full::Always => Problem::TooLarge(self.budget.of_one),
        }
    }
}

impl Drop for BodyShare {
    fn drop(&mut self) {
        let mut used = self.budget.used.lock();
        used.all -= self.bytes;
        if let Some(own) = used.of_user.get_mut(&self.user) {
            *own -= self.bytes;
            if *own == 0 {
                used.of_user.remove(&self.user);
            }
        }
    }
}

/// A body that is there, and the room for it and for what is read of it.
#[derive(Debug)]
pub(crate) struct WholeBody {
    pub(crate) bytes: Bytes,
    pub(crate) held: BodyShare,
}

/// Reads a body, as far as it may come. What is left of it when it is refused stays in `body`.
pub(crate) async fn read(
    app: &App,
    (takes, user): (Takes, &str),
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<WholeBody, Problem> {
    let max = takes.max(app);
    let announced = headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > max) {
        return Err(Problem::TooLarge(max));
    }
    let mut held = takes.budget(app).open(user);
    let bytes = collect(body, max, &mut held).await?;
    let is_read_as_one = match takes {
        Takes::Declaration | Takes::Message => true,
        Takes::Ingress => is_json(headers),
        // Object by object, one file at a time.
        Takes::Definitions => false,
    };
    if is_read_as_one {
        let more = values(&bytes).saturating_mul(VALUE_BYTES);
        let more = more.saturating_add(bytes.len());
        held.grow(more).map_err(|full| held.refused(full))?;
    }
    Ok(WholeBody { bytes, held })
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/json"))
}

async fn collect(body: &mut Body, max: usize, held: &mut BodyShare) -> Result<Bytes, Problem> {
    let begun = Instant::now();
    let mut bytes = Vec::new();
    loop {
        let earned = (bytes.len() / BYTES_A_SECOND) as u64;
        let until = (begun + BODY_TIME + Duration::from_secs(earned)).min(Instant::now() + SILENCE);
        let frame = timeout_at(until, next(body)).await;
        let frame = frame.map_err(|_| Problem::bad("the body did not come in time"))?;
        let Some(frame) = frame else {
            return Ok(bytes.into());
        };
        let data = frame.map_err(|error| Problem::bad(format!("cannot read the body: {error}")))?;
        if bytes.len() + data.len() > max {
            return Err(Problem::TooLarge(max));
        }
        held.grow(data.len()).map_err(|full| held.refused(full))?;
        bytes.extend_from_slice(&data);
    }
}

/// The next bytes of a body; none at its end.
async fn next(body: &mut Body) -> Option<Result<Bytes, axum::Error>> {
    let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await?;
    Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
}

/// Reads a body to its end, but no more than so many bytes. Tells whether that was its end.
pub(crate) async fn discard(mut body: Body, max: usize) -> bool {
    let mut read = 0;
    while read <= max {
        let Some(Ok(data)) = next(&mut body).await else {
            return body.is_end_stream();
        };
        read += data.len();
    }
    false
}

/// Values and names of values, and once more each that holds others, of what may be JSON.
fn values(json: &[u8]) -> usize {
    let mut count = 1;
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b',' | b':' => count += 1,
            b'[' | b'{' => count += 2,
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => drop(bytes.next()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::ENDPOINTS;

    #[test]
    fn definitions_are_definitions_by_their_old_name_too() {
        let names = [
            "/api/definitions",
            "/api/definitions/{vhost}",
            "/api/all-configuration",
        ];
        let imports =
            |endpoint: &&Endpoint| endpoint.verb == Verb::Post && names.contains(&endpoint.path);
        let takes: Vec<_> = ENDPOINTS.iter().filter(imports).map(Takes::of).collect();
        assert_eq!(takes, [Takes::Definitions; 3]);
    }

    #[test]
    fn values_are_counted_outside_of_strings_alone() {
        for (json, count) in [
            ("", 1),
            ("1", 1),
            (r#""[[[,,,:::""#, 1),
            (r#""\"[[[""#, 1),
            ("[1,1,1]", 5),
            (r#"{"a":1,"b":[{}]}"#, 10),
        ] {
            assert_eq!(values(json.as_bytes()), count, "{json}");
        }
    }

    #[test]
    fn nobody_takes_more_than_a_share_and_what_is_dropped_is_free_again() {
        let budget = BodyBudget::new(100, 50);
        let mut first = budget.open("a");
        assert_eq!(first.grow(51), Err(Full::Always));
        assert_eq!(first.grow(40), Ok(()));
        let mut second = budget.open("a");
        assert_eq!(second.grow(11), Err(Full::Now));
        assert_eq!(second.grow(10), Ok(()));
        let mut other = budget.open("b");
        assert_eq!(other.grow(50), Ok(()));
        assert_eq!(budget.open("c").grow(1), Err(Full::Now));
        drop((first, other));
        assert_eq!(budget.open("c").grow(50), Ok(()));
        drop(second);
        let used = budget.used.lock();
        assert_eq!((used.all, used.of_user.len()), (0, 0));
    }
}
