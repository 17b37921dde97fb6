//! What an endpoint answers, and how it is written. Long lists are written while they are made.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body::Frame;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::problem::{JSON, Problem, json_response};

/// A list up to this long is sent in one piece.
const PIECE_BYTES: usize = 64 * 1024;
/// Pieces of a list that wait for a slow client; the endpoint's thread then waits too.
const PIECES_AHEAD: usize = 2;
/// A list must have been taken within this time, and [`PIECE_TIME`] more for each piece: one who
/// reads slower would keep a thread, and others from theirs.
const LIST_TIME: Duration = Duration::from_secs(60);
const PIECE_TIME: Duration = Duration::from_secs(1);

/// What an endpoint answers.
pub(crate) enum Reply {
    /// 200 with a body.
    Json(Value),
    /// A list: its items are made one by one.
    List(Box<dyn Iterator<Item = Value> + Send>),
    /// Another status with a body.
    Status(StatusCode, Value),
    /// 503 with a body: some of it was refused, and may be tried again after so many seconds.
    RetryAfter(u32, Value),
    /// 201: the object is new.
    Created,
    /// 201, and where the object is, relative to the request.
    CreatedAt(String),
    /// 204: done.
    NoContent,
    /// 200, to be saved as a file of this name.
    Download(String, Value),
}

impl Reply {
    /// 201 for something new, 204 for something that was there.
    pub(crate) const fn put(created: bool) -> Self {
        if created {
            Self::Created
        } else {
            Self::NoContent
        }
    }

    /// Sends the answer, then writes the rest of it on this thread.
    pub(crate) fn send(self, to: oneshot::Sender<Response>) {
        match self {
            Self::List(items) => send_list(items, to, LIST_TIME),
            other => {
                // A client that has gone away needs no answer.
                let _ = to.send(other.into_response());
            }
        }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        match self {
            Self::Json(body) => json_response(StatusCode::OK, &body),
            Self::List(items) => json_response(StatusCode::OK, &Value::Array(items.collect())),
            Self::Status(status, body) => json_response(status, &body),
            Self::RetryAfter(seconds, body) => {
                let mut response = json_response(StatusCode::SERVICE_UNAVAILABLE, &body);
                response
                    .headers_mut()
                    .insert(header::RETRY_AFTER, seconds.into());
                response
            }
            Self::Created => StatusCode::CREATED.into_response(),
            Self::CreatedAt(place) => {
                let mut response = StatusCode::CREATED.into_response();
                if let Ok(place) = HeaderValue::from_str(&place) {
                    response.headers_mut().insert(header::LOCATION, place);
                }
                response
            }
            Self::NoContent => StatusCode::NO_CONTENT.into_response(),
            Self::Download(name, body) => {
                let mut response = json_response(StatusCode::OK, &body);
                let disposition = format!("attachment; filename=\"{name}\"");
                if let Ok(value) = HeaderValue::from_str(&disposition) {
                    response
                        .headers_mut()
                        .insert(header::CONTENT_DISPOSITION, value);
                }
                response
            }
        }
    }
}

fn send_list(
    items: Box<dyn Iterator<Item = Value> + Send>,
    to: oneshot::Sender<Response>,
    time: Duration,
) {
    let mut to = Some(to);
    let mut pieces = None;
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    piece.push(b'[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            piece.push(b',');
        }
        if serde_json::to_writer(&mut piece, &item).is_err() {
            return;
        }
        if piece.len() >= PIECE_BYTES - PIECE_BYTES / 8 {
            let full = std::mem::replace(&mut piece, Vec::with_capacity(PIECE_BYTES));
            let pieces = pieces.get_or_insert_with(|| begin(to.take(), time));
            if !pieces.send(full) {
                return;
            }
        }
    }
    piece.push(b']');
    match (pieces, to) {
        (Some(mut pieces), _) => {
            if pieces.send(piece) {
                // The end.
                pieces.send(Vec::new());
            }
        }
        (None, Some(to)) => {
            let _ = to.send(([(header::CONTENT_TYPE, JSON)], piece).into_response());
        }
        (None, None) => {}
    }
}

/// Sends the head of an answer whose body follows in pieces, for which the client has so much time.
fn begin(to: Option<oneshot::Sender<Response>>, time: Duration) -> Pieces {
    let (pieces, body) = mpsc::channel(PIECES_AHEAD);
    if let Some(to) = to {
        let arriving = Arriving {
            pieces: body,
            is_over: false,
        };
        let response = ([(header::CONTENT_TYPE, JSON)], Body::new(arriving));
        let _ = to.send(response.into_response());
    }
    Pieces {
        to: pieces,
        until: Instant::now() + time,
    }
}

/// Where the pieces of a body go; an empty one is the end.
struct Pieces {
    to: mpsc::Sender<Bytes>,
    until: Instant,
}

impl Pieces {
    /// Waits for the client; false when it has gone away, or is out of time.
    fn send(&mut self, piece: Vec<u8>) -> bool {
        self.until += PIECE_TIME;
        let sent = timeout_at(self.until, self.to.send(piece.into()));
        matches!(Handle::current().block_on(sent), Ok(Ok(())))
    }
}

/// A body that arrives in pieces. Once it has ended, or broken off, it stays so: what compresses
/// it asks again after its end.
struct Arriving {
    pieces: mpsc::Receiver<Bytes>,
    is_over: bool,
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let piece = ready!(self.pieces.poll_recv(context));
        self.is_over = piece.as_ref().is_none_or(Bytes::is_empty);
        Poll::Ready(match piece {
            Some(end) if end.is_empty() => None,
            Some(piece) => Some(Ok(Frame::data(piece))),
            // The connection must end: what was sent is not the whole.
            None => Some(Err(io::ErrorKind::TimedOut.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}

/// What an endpoint gives.
pub(crate) type Answer = Result<Reply, Problem>;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http_body::Body as _;

    use super::*;

    fn rows(count: usize) -> Box<dyn Iterator<Item = Value> + Send> {
        Box::new((0..count).map(|_| Value::from("x".repeat(PIECE_BYTES))))
    }

    #[tokio::test]
    async fn a_list_comes_whole_and_one_that_is_not_taken_in_time_breaks_off() {
        for (time, whole) in [(Duration::from_secs(600), true), (Duration::ZERO, false)] {
            let (to, answer) = oneshot::channel();
            let sending = tokio::task::spawn_blocking(move || send_list(rows(8), to, time));
            let body = answer.await.unwrap().into_body();
            if !whole {
                // The thread does not wait for ever for one who does not read.
                sending.await.unwrap();
            }
            let read = axum::body::to_bytes(body, usize::MAX).await;
            let list = read.map(|bytes| serde_json::from_slice::<Vec<Value>>(&bytes).unwrap());
            assert_eq!(list.ok().map(|list| list.len()), whole.then_some(8));
        }
    }

    #[tokio::test]
    async fn a_list_that_is_over_stays_over() {
        for (time, whole) in [(Duration::from_secs(600), true), (Duration::ZERO, false)] {
            let (to, answer) = oneshot::channel();
            let sending = tokio::task::spawn_blocking(move || send_list(rows(8), to, time));
            let mut body = answer.await.unwrap().into_body();
            if !whole {
                sending.await.unwrap();
            }
            let mut next = async || {
                let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
                frame.map(|frame| frame.is_ok())
            };
            let mut last = next().await;
            while last == Some(true) {
                last = next().await;
            }
            assert_eq!(last, if whole { None } else { Some(false) });
            for _ in 0..3 {
                assert_eq!(next().await, None);
            }
        }
    }
}
