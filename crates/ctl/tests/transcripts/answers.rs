//! A small HTTP server that gives recorded answers in their order, or records a broker's.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use serde_json::{Map, Value, json};

/// Where answers come from.
pub(crate) enum Source {
    /// A recording.
    Recorded(VecDeque<Value>),
    /// A broker that runs, by its URL.
    Broker(String),
}

impl Source {
    /// Reads a recording; one that is not there has no requests.
    pub(crate) fn recorded(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        let entry = |line: &str| serde_json::from_str(line).expect("an entry of a recording");
        Self::Recorded(text.lines().map(entry).collect())
    }
}

/// A server that runs until it is asked how it went.
pub(crate) struct Answers {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

struct State {
    source: Source,
    recorded: String,
    problem: Option<String>,
}

/// How it went.
pub(crate) struct Outcome {
    /// The first request that was not the recorded one, or a recorded one that never came.
    pub(crate) problem: Option<String>,
    /// The new recording.
    pub(crate) recorded: Option<String>,
}

impl Answers {
    pub(crate) fn serve(source: Source) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State {
            source,
            recorded: String::new(),
            problem: None,
        }));
        let over = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (state, over) = (Arc::clone(&state), Arc::clone(&over));
            move || {
                for stream in listener.incoming() {
                    if over.load(Ordering::Acquire) {
                        break;
                    }
                    answer(stream.expect("a connection"), &state);
                }
            }
        });
        Self {
            url: format!("http://{address}"),
            state,
            over,
            thread,
        }
    }

    pub(crate) fn finish(self) -> Outcome {
        self.over.store(true, Ordering::Release);
        let address = self.url.trim_start_matches("http://");
        let _ = TcpStream::connect(address);
        self.thread.join().expect("the server");
        let mut state = self.state.lock().expect("the state");
        let recorded = match &state.source {
            Source::Broker(_) => Some(std::mem::take(&mut state.recorded)),
            Source::Recorded(_) => None,
        };
        let left = match &state.source {
            Source::Recorded(left) => left.front().map(|entry| format!("never sent: {entry}")),
            Source::Broker(_) => None,
        };
        let problem = state.problem.take().or(left);
        Outcome { problem, recorded }
    }
}

/// Answers the one request of a connection.
fn answer(mut stream: TcpStream, state: &Mutex<State>) {
    let (request, authorisation) = read_request(&mut stream);
    let mut state = state.lock().expect("the state");
    let state = &mut *state;
    let (status, body) = match &mut state.source {
        Source::Broker(url) => {
            let (status, body) = forward(url, &request, &authorisation);
            let mut entry = request;
            entry.insert("status".to_owned(), status.into());
            entry.insert("answer".to_owned(), body.clone());
            state
                .recorded
                .push_str(&format!("{}\n", Value::Object(entry)));
            (status, body)
        }
        Source::Recorded(entries) => {
            let entry = entries.pop_front().unwrap_or_default();
            let same = ["request", "headers", "body"]
                .iter()
                .all(|&part| entry.get(part) == request.get(part));
            if !same && state.problem.is_none() {
                let sent = Value::Object(request);
                state.problem = Some(format!("wanted {entry}\n  sent   {sent}"));
            }
            let status = entry["status"].as_u64().filter(|_| same).unwrap_or(500);
            (status, entry["answer"].clone())
        }
    };
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let head = format!(
        "HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}",
        body.len()
    );
    let _ = stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes());
}

/// A request as it is recorded (its line, the headers that matter, its body), and who sends it.
fn read_request(stream: &mut TcpStream) -> (Map<String, Value>, String) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).expect("a request line");
    let target = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    let mut request = Map::new();
    request.insert("request".to_owned(), target.into());
    let mut length = 0;
    let mut authorisation = String::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a header");
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().expect("a length"),
            "authorization" => value.clone_into(&mut authorisation),
            "x-reason" => {
                request.insert("headers".to_owned(), json!({"x-reason": value}));
            }
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    if !body.is_empty() {
        let body = serde_json::from_slice(&body).expect("a JSON body");
        request.insert("body".to_owned(), body);
    }
    (request, authorisation)
}

/// Asks the broker what we were asked.
fn forward(url: &str, request: &Map<String, Value>, authorisation: &str) -> (u64, Value) {
    let line = request["request"].as_str().expect("text");
    let (method, target) = line.split_once(' ').expect("a line");
    let mut builder = ureq::http::Request::builder()
        .method(method)
        .uri(format!("{url}{target}"))
        .header("content-type", "application/json")
        .header("authorization", authorisation);
    if let Some(reason) = request
        .get("headers")
        .and_then(|headers| headers["x-reason"].as_str())
    {
        builder = builder.header("x-reason", reason);
    }
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .new_agent();
    let answered = match request.get("body") {
        Some(body) => agent.run(builder.body(body.to_string()).expect("a request")),
        None => agent.run(builder.body(()).expect("a request")),
    };
    let mut answer = answered.expect("the broker answers");
    let status = u64::from(answer.status().as_u16());
    let text = answer.body_mut().read_to_string().expect("a body");
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}
