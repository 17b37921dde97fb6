//! What an endpoint answers, and how it is written. Long lists are written while they are made.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body::Frame;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::problem::{JSON, Problem, json_response};

/// A list up to this long is sent in one piece.
const PIECE_BYTES: usize = 64 * 1024;
/// Pieces of a list that wait for a slow client; the endpoint's thread then waits too.
const PIECES_AHEAD: usize = 2;

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
            Self::List(items) => send_list(items, to),
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

fn send_list(items: Box<dyn Iterator<Item = Value> + Send>, to: oneshot::Sender<Response>) {
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
            let pieces = pieces.get_or_insert_with(|| begin(to.take()));
            if pieces.blocking_send(full.into()).is_err() {
                return;
            }
        }
    }
    piece.push(b']');
    match (pieces, to) {
        (Some(pieces), _) => {
            let _ = pieces.blocking_send(piece.into());
        }
        (None, Some(to)) => {
            let _ = to.send(([(header::CONTENT_TYPE, JSON)], piece).into_response());
        }
        (None, None) => {}
    }
}

/// Sends the head of an answer whose body follows in pieces.
fn begin(to: Option<oneshot::Sender<Response>>) -> mpsc::Sender<Bytes> {
    let (pieces, body) = mpsc::channel(PIECES_AHEAD);
    if let Some(to) = to {
        let response = ([(header::CONTENT_TYPE, JSON)], Body::new(Pieces(body)));
        let _ = to.send(response.into_response());
    }
    pieces
}

/// A body that arrives in pieces.
struct Pieces(mpsc::Receiver<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0
            .poll_recv(context)
            .map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// What an endpoint gives.
pub(crate) type Answer = Result<Reply, Problem>;
