//! The real binary on a free port, and a client that may send whatever bytes it likes.

pub(crate) mod http;
pub(crate) mod machine;

use std::env;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use leveret_codec::{
    BasicGet, BasicPublish, ChannelOpen, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk,
    FrameKind, Method, PROTOCOL_HEADER, QueueDeclare, RawTable, frame,
};
use machine::Watch;

/// Everything the broker owes an answer to comes well within this, also on a machine that does
/// other things. Whoever has to be quick has a bound of its own.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The same of what is a lot of work.
pub(crate) const LONG_PATIENCE: Duration = Duration::from_secs(180);
/// Who reads nothing for so long, on a machine that has time for it, will read no more.
const STUCK: Duration = Duration::from_secs(1);
/// The largest frame the clients here agree on, bytes.
pub(crate) const FRAME_MAX: u32 = 131_072;

/// What is tested: the broker that was compiled for it, or the one that `LEVERET_BINARY` names.
fn binary() -> OsString {
    env::var_os("LEVERET_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_leveret").into())
}

/// A command for the broker under test, untouched by the environment of whoever runs the tests.
pub(crate) fn leveret() -> Command {
    let mut command = Command::new(binary());
    command.env_clear().current_dir(env!("CARGO_TARGET_TMPDIR"));
    command
}

/// A running broker; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    /// Reads the log to its end.
    reader: Option<JoinHandle<()>>,
    _folder: Option<Folder>,
    /// Of the HTTP API and of the metrics, if they are served.
    http: Option<(SocketAddr, SocketAddr)>,
}

/// A data folder of its own, removed when dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "data-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Relaxed)
        );
        Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name))
    }

    /// One that is there already.
    pub(crate) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With settings, each as `section.key=value`.
    pub(crate) fn start_with(settings: &[&str]) -> Self {
        let folder = Folder::new();
        let mut server = Self::start_in(&folder, settings);
        server._folder = Some(folder);
        server
    }

    /// With a data folder that outlives it.
    pub(crate) fn start_in(folder: &Folder, settings: &[&str]) -> Self {
        Self::start_from(leveret(), folder, settings)
    }

    /// By a command that becomes the broker with the arguments appended.
    pub(crate) fn start_from(command: Command, folder: &Folder, settings: &[&str]) -> Self {
        let off = ["management.listen=[]", "management.metrics_listen=[]"];
        start(command, folder, &[&off, settings].concat())
    }

    /// With the HTTP API and the metrics.
    pub(crate) fn start_http(settings: &[&str]) -> Self {
        let folder = Folder::new();
        let mut server = Self::start_http_in(&folder, settings);
        server._folder = Some(folder);
        server
    }

    /// The same, with a data folder that outlives it.
    pub(crate) fn start_http_in(folder: &Folder, settings: &[&str]) -> Self {
        let on = [
            r#"management.listen=["127.0.0.1:0"]"#,
            r#"management.metrics_listen=["127.0.0.1:0"]"#,
        ];
        start(leveret(), folder, &[&on, settings].concat())
    }

    /// A user's way to the HTTP API.
    pub(crate) fn http_as(&self, user: &str, password: &str) -> http::Http {
        let (api, _) = self.http.expect("the API is served");
        http::Http::new(api, user, password)
    }

    /// The HTTP API's address.
    pub(crate) fn api(&self) -> SocketAddr {
        self.http.expect("the API is served").0
    }

    /// The metrics endpoint.
    pub(crate) fn metrics(&self) -> http::Http {
        let (_, metrics) = self.http.expect("metrics are served");
        http::Http::new(metrics, "", "")
    }

    /// The metrics endpoint's address.
    pub(crate) fn metrics_address(&self) -> SocketAddr {
        self.http.expect("metrics are served").1
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Asks its HTTP API as the user `guest`, which a setting has to turn on; gives the status.
    pub(crate) fn http(&self, method: &str, path: &str, body: &str) -> u16 {
        let log = self.log();
        let serves = |line: &&String| line.contains("\"protocol\":\"http\"");
        let address = log
            .iter()
            .find(serves)
            .and_then(|line| address_in(line, "http"));
        let mut stream = TcpStream::connect(address.expect("it serves HTTP")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        let request = format!(
            "{method} /api/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
        status.unwrap_or_else(|| panic!("no HTTP: {answer}"))
    }

    /// Its process.
    pub(crate) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// The same as `login`, to another virtual host.
    pub(crate) fn login_to(&self, vhost: &str) -> Client {
        Client::login(self.address, vhost)
    }

    /// A connection that is logged in, with channels 1 and 2 open.
    pub(crate) fn login(&self) -> Client {
        self.login_with_heartbeat(0)
    }

    /// The same, with heartbeats every so many seconds.
    pub(crate) fn login_with_heartbeat(&self, heartbeat_s: u16) -> Client {
        self.login_with(&[], heartbeat_s)
    }

    /// The same, with client properties too: an encoded table without its length.
    pub(crate) fn login_with(&self, properties: &[u8], heartbeat_s: u16) -> Client {
        let mut client = self.connect();
        client.log_in(start_ok(properties), heartbeat_s, "/");
        client.open_channels();
        client
    }

    /// The same, as another user, whose password is its name.
    pub(crate) fn login_as(&self, user: &str) -> Client {
        let response = format!("\0{user}\0{user}");
        let mut client = self.connect();
        let start_ok = ConnectionStartOk {
            response: response.as_bytes(),
            ..start_ok(&[])
        };
        client.log_in(start_ok, 0, "/");
        client.open_channels();
        client
    }

    /// A line of `/proc/PID/status` in kB, as bytes: `VmRSS` now, `VmHWM` at most so far.
    pub(crate) fn memory(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.trim_matches(':').split_whitespace().next());
        1024 * number
            .and_then(|text| text.parse::<u64>().ok())
            .expect("a size in kB")
    }

    /// Open files and sockets, without the journal's segments: those follow what is stored.
    pub(crate) fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.child.id());
        let all = std::fs::read_dir(path).expect("it runs").flatten();
        all.filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .filter(|target| !target.to_string_lossy().contains("/journal-"))
            .count()
    }

    pub(crate) fn terminate(&self) {
        rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM).expect("it runs");
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                // Its last words are in the pipe still.
                self.reader.take().map(JoinHandle::join);
                return status;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("the broker does not stop");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a broker that ends by itself; what it said.
pub(crate) fn run_to_end(command: &mut Command) -> Output {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it can be run");
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().expect("it is there").is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("it goes on: {:?}", child.wait_with_output());
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().expect("it said something")
}

/// Starts a broker and waits until it listens.
fn start(mut command: Command, folder: &Folder, settings: &[&str]) -> Server {
    let mut child = command
        .args(["--set", r#"amqp.listen=["127.0.0.1:0"]"#])
        .args(settings.iter().flat_map(|setting| ["--set", setting]))
        .args(["--log-format", "json", "--data-dir"])
        .arg(folder.path())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the broker starts");
    let pipe = BufReader::new(child.stderr.take().expect("its log is a pipe"));
    let (found, address) = mpsc::channel();
    let log = Arc::new(Mutex::new(Vec::new()));
    let lines = Arc::clone(&log);
    // Reads to the end, so that the broker never waits for room in the pipe.
    let reader = thread::spawn(move || {
        for line in pipe.lines().map_while(Result::ok) {
            let address = address_in(&line, "addresses");
            lines.lock().unwrap().push(line);
            if let Some(address) = address {
                let _ = found.send(address);
            }
        }
    });
    let address = address.recv_timeout(PATIENCE).expect("the broker listens");
    let http: Vec<_> = log
        .lock()
        .unwrap()
        .iter()
        .filter_map(|line| address_in(line, "http"))
        .collect();
    Server {
        child,
        address,
        log,
        reader: Some(reader),
        _folder: None,
        http: http.first().copied().zip(http.get(1).copied()),
    }
}

/// Whether it comes to that, for who is patient.
pub(crate) fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// The address in a line of the log that tells of a listener, in a field of this name.
fn address_in(line: &str, field: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(&format!("\"{field}\":[\""))?;
    rest.split_once('"')?.0.parse().ok()
}

/// One frame from the broker.
pub(crate) struct Received {
    pub(crate) kind: FrameKind,
    pub(crate) channel: u16,
    pub(crate) payload: Vec<u8>,
}

impl Received {
    pub(crate) fn method(&self) -> Method<'_> {
        assert_eq!(self.kind, FrameKind::Method);
        Method::decode(&self.payload).expect("the broker speaks AMQP")
    }
}

/// A raw socket with an encoder.
pub(crate) struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the broker accepts");
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            received: Vec::new(),
        }
    }

    /// Logs in to a virtual host as the default user, and opens channels 1 and 2.
    pub(crate) fn login(address: SocketAddr, vhost: &str) -> Self {
        let mut client = Self::connect(address);
        client.log_in(start_ok(&[]), 0, vhost);
        client.open_channels();
        client
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the broker reads");
    }

    /// Sends what the broker may refuse to read to its end.
    pub(crate) fn send_unwelcome(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Sends the same again and again until the broker reads no more; gives how often it was sent
    /// whole.
    pub(crate) fn send_until_stuck(&mut self, bytes: &[u8]) -> usize {
        self.stream.set_write_timeout(Some(STUCK)).unwrap();
        let (mut sent, mut tries, mut watch) = (0, 1, Watch::start());
        loop {
            match self.stream.write(&bytes[sent % bytes.len()..]) {
                Ok(len) => sent += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if tries == machine::TRIES || watch.disturbance().is_none() {
                        return sent / bytes.len();
                    }
                    tries += 1;
                    watch = Watch::start();
                }
                Err(error) => panic!("{error}"),
            }
            assert!(sent < 1 << 28, "the broker reads on");
        }
    }

    pub(crate) fn method<'a>(&mut self, channel: u16, method: impl Into<Method<'a>>) {
        self.send(&encode(channel, method));
    }

    /// The next frame, heartbeats left out.
    pub(crate) fn next(&mut self) -> Received {
        loop {
            if let Some((frame, len)) = frame(&self.received, FRAME_MAX).expect("lawful frames") {
                let next = Received {
                    kind: frame.kind,
                    channel: frame.channel,
                    payload: frame.payload.to_vec(),
                };
                self.received.drain(..len);
                if next.kind != FrameKind::Heartbeat {
                    return next;
                }
                continue;
            }
            let mut buffer = [0; 4096];
            let len = self.stream.read(&mut buffer).expect("an answer in time");
            assert!(len > 0, "the broker hung up");
            self.received.extend_from_slice(&buffer[..len]);
        }
    }

    /// The next frame, which must be the named method of the channel.
    pub(crate) fn expect(&mut self, channel: u16, name: &str) -> Received {
        let next = self.next();
        assert_eq!((next.channel, next.method().name()), (channel, name));
        next
    }

    /// The next frame must be `connection.close` with this code and these words in its text;
    /// answers it and sees the end.
    pub(crate) fn expect_close(mut self, code: u16, words: &str) {
        let close = self.expect(0, "connection.close");
        let Method::ConnectionClose(close) = close.method() else {
            unreachable!("the name says so");
        };
        let text = String::from_utf8_lossy(close.reply_text);
        assert_eq!(close.reply_code, code, "{text}");
        assert!(text.contains(words), "{text}");
        self.send_unwelcome(&encode(0, leveret_codec::ConnectionCloseOk {}));
        self.expect_end();
    }

    /// Everything up to the end of the stream.
    pub(crate) fn rest(mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.received);
        self.stream.read_to_end(&mut rest).expect("an orderly end");
        rest
    }

    /// Reads for so long, answering all with a heartbeat; tells the longest time without a byte.
    pub(crate) fn longest_silence(&mut self, during: Duration) -> Duration {
        let start = Instant::now();
        let (mut last, mut longest) = (start, Duration::ZERO);
        while start.elapsed() < during {
            let len = self.stream.read(&mut [0; 64]).expect("bytes in time");
            assert!(len > 0, "the broker hung up");
            longest = longest.max(last.elapsed());
            last = Instant::now();
            self.send(&leveret_codec::HEARTBEAT);
        }
        longest
    }

    /// Waits for answers for so long from now on.
    pub(crate) fn wait_for_answers(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).unwrap();
    }

    /// Sends nothing more; may read on.
    pub(crate) fn end_sending(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Whether the broker says nothing and does not hang up for so long.
    pub(crate) fn is_left_alone(&self, during: Duration) -> bool {
        self.stream.set_read_timeout(Some(during)).unwrap();
        let read = self.stream.peek(&mut [0]);
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        matches!(read, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// The broker hangs up in time, whether or not it read all; gives what it said.
    pub(crate) fn expect_end(mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        if let Err(error) = self.stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        }
        rest
    }

    /// Answers nothing, not even heartbeats, until the broker hangs up.
    pub(crate) fn expect_silent_end(&mut self) {
        let mut buffer = [0; 64];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
                    return;
                }
            }
        }
    }

    fn open_channels(&mut self) {
        for channel in [1, 2] {
            self.method(channel, ChannelOpen {});
            self.expect(channel, "channel.open-ok");
        }
    }

    fn log_in(&mut self, start_ok: ConnectionStartOk<'_>, heartbeat_s: u16, vhost: &str) {
        self.send(&PROTOCOL_HEADER);
        self.expect(0, "connection.start");
        self.method(0, start_ok);
        self.expect(0, "connection.tune");
        let tune_ok = ConnectionTuneOk {
            channel_max: 2047,
            frame_max: FRAME_MAX,
            heartbeat: heartbeat_s,
        };
        self.method(0, tune_ok);
        let virtual_host = vhost.as_bytes();
        self.method(0, ConnectionOpen { virtual_host });
        self.expect(0, "connection.open-ok");
    }

    pub(crate) fn declare(&mut self, channel: u16, queue: &str) {
        self.method(channel, declare(queue, &[]));
        self.expect(channel, "queue.declare-ok");
    }

    /// How many messages of a queue are ready.
    pub(crate) fn count(&mut self, channel: u16, queue: &str) -> u32 {
        self.method(channel, declare(queue, &[]));
        let answer = self.expect(channel, "queue.declare-ok");
        let Method::QueueDeclareOk(ok) = answer.method() else {
            unreachable!("the name says so");
        };
        ok.message_count
    }

    /// Publishes now and then until the broker says something; gives what it says.
    pub(crate) fn publish_until_told(&mut self, queue: &str) -> Received {
        let short = Some(Duration::from_millis(100));
        self.stream.set_read_timeout(short).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.send(&message(1, queue, 1, &[b"x"]).concat());
            let mut buffer = [0; 4096];
            if let Ok(len) = self.stream.read(&mut buffer) {
                self.received.extend_from_slice(&buffer[..len]);
                self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
                return self.next();
            }
        }
        panic!("the broker says nothing");
    }

    /// Reads frames up to and including the named method; no close may come instead.
    pub(crate) fn skip_until(&mut self, channel: u16, name: &str) {
        loop {
            let next = self.next();
            if next.kind == FrameKind::Method {
                let method = next.method();
                if method.name() == name {
                    assert_eq!(next.channel, channel);
                    return;
                }
                let closes = ["channel.close", "connection.close"].contains(&method.name());
                assert!(!closes, "{name} was to come, not {method:?}");
            }
        }
    }

    /// Reads and forgets whatever comes until `done` holds in a pause, which is told how many bytes
    /// came; gives how many these are.
    pub(crate) fn skip_deliveries(&mut self, mut done: impl FnMut(u64) -> bool) -> u64 {
        self.stream
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        // The rest of a frame that was begun may be among it.
        self.received.clear();
        let mut buffer = vec![0; 1 << 20];
        let mut bytes = 0;
        let deadline = Instant::now() + LONG_PATIENCE;
        loop {
            match self.stream.read(&mut buffer) {
                Ok(len) => {
                    assert!(len > 0, "the broker hung up");
                    bytes += len as u64;
                }
                Err(_) if done(bytes) => return bytes,
                Err(_) => assert!(Instant::now() < deadline, "nothing more comes"),
            }
        }
    }

    /// Fetches a message and gives its body.
    pub(crate) fn get(&mut self, channel: u16, queue: &str) -> Vec<u8> {
        let get = BasicGet {
            queue: queue.as_bytes(),
            no_ack: true,
        };
        self.method(channel, get);
        self.expect(channel, "basic.get-ok");
        self.read_content(channel)
    }

    /// Reads a message's header and body; gives the body.
    pub(crate) fn read_content(&mut self, channel: u16) -> Vec<u8> {
        let header = self.next();
        assert_eq!((header.kind, header.channel), (FrameKind::Header, channel));
        let size = leveret_codec::decode_header(&header.payload).unwrap();
        let mut body = Vec::new();
        while (body.len() as u64) < size.body_size {
            let part = self.next();
            assert_eq!((part.kind, part.channel), (FrameKind::Body, channel));
            body.extend_from_slice(&part.payload);
        }
        body
    }
}

/// One method frame.
pub(crate) fn encode<'a>(channel: u16, method: impl Into<Method<'a>>) -> Vec<u8> {
    let mut out = Vec::new();
    method.into().encode(channel, &mut out);
    out
}

/// A frame with any payload and a lawful end.
pub(crate) fn raw_frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(payload);
    out.push(leveret_codec::FRAME_END);
    out
}

/// The frames of one message for a queue, one body frame for each part.
pub(crate) fn message(channel: u16, queue: &str, announced: u64, parts: &[&[u8]]) -> Vec<Vec<u8>> {
    let publish = BasicPublish {
        routing_key: queue.as_bytes(),
        ..Default::default()
    };
    let mut header = Vec::new();
    leveret_codec::Properties::default().encode(announced, &mut header);
    let mut frames = vec![encode(channel, publish), raw_frame(2, channel, &header)];
    frames.extend(parts.iter().map(|part| raw_frame(3, channel, part)));
    frames
}

/// Credentials of the default user; `properties` is an encoded table without its length.
pub(crate) fn start_ok(properties: &[u8]) -> ConnectionStartOk<'_> {
    ConnectionStartOk {
        client_properties: RawTable::parse(properties).expect("a lawful table"),
        mechanism: b"PLAIN",
        response: b"\0guest\0guest",
        locale: b"en_US",
    }
}

/// `arguments` is an encoded table without its length.
pub(crate) fn declare<'a>(queue: &'a str, arguments: &'a [u8]) -> QueueDeclare<'a> {
    QueueDeclare {
        queue: queue.as_bytes(),
        arguments: RawTable::parse(arguments).expect("a lawful table"),
        ..Default::default()
    }
}

/// An encoded table, its length in front, that holds a table that holds a table, and so on.
pub(crate) fn nested_table(depth: usize) -> Vec<u8> {
    // Innermost first, and so back to front: a length, the type, the key "", for each level.
    let mut reversed = Vec::new();
    for level in 0..depth {
        let inside = u32::try_from(level * 6).expect("a small depth");
        reversed.extend(inside.to_be_bytes().iter().rev());
        if level + 1 < depth {
            reversed.extend(b"\0F".iter().rev());
        }
    }
    reversed.reverse();
    reversed
}

/// An orderly `connection.close`.
pub(crate) fn close() -> leveret_codec::ConnectionClose<'static> {
    leveret_codec::ConnectionClose {
        reply_code: 200,
        reply_text: b"bye",
        ..Default::default()
    }
}
