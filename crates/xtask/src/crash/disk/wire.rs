//! As much AMQP as a client needs that fills a disk: no more than bytes and a socket.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Class and method.
pub(super) type Id = (u16, u16);

pub(super) const CHANNEL_CLOSE: Id = (20, 40);
pub(super) const DECLARE_OK: Id = (50, 11);
pub(super) const DELETE_OK: Id = (50, 41);
pub(super) const DELIVER: Id = (60, 60);
pub(super) const ACK: Id = (60, 80);
pub(super) const NACK: Id = (60, 120);
pub(super) const BLOCKED: Id = (10, 60);

const POLL: Duration = Duration::from_millis(5);
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
/// Where nothing is read for so long, the client looks whether it was told that it is blocked.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// The largest frame a client may send: the broker's default.
const FRAME_MAX: usize = 131_072;

/// What came: a method with its arguments, or with a delivery the body.
pub(super) struct Came {
    pub(super) id: Id,
    pub(super) arguments: Vec<u8>,
    pub(super) body: Vec<u8>,
}

impl Came {
    /// The delivery tag of an ack or nack, and whether it is for all before it, too.
    pub(super) fn settles(&self) -> (u64, bool) {
        let tag = self.arguments.first_chunk::<8>().copied();
        let flags = self.arguments.get(8).copied().unwrap_or_default();
        (tag.map_or(0, u64::from_be_bytes), flags & 1 == 1)
    }

    /// The delivery tag of a delivery.
    pub(super) fn tag(&self) -> u64 {
        let after_consumer = 1 + usize::from(self.arguments.first().copied().unwrap_or_default());
        let tag = self.arguments.get(after_consumer..);
        let tag = tag.and_then(|rest| rest.first_chunk::<8>().copied());
        tag.map_or(0, u64::from_be_bytes)
    }

    /// The number of messages of a `declare-ok`.
    pub(super) fn message_count(&self) -> u32 {
        let after_name = 1 + usize::from(self.arguments.first().copied().unwrap_or_default());
        let count = self.arguments.get(after_name..);
        let count = count.and_then(|rest| rest.first_chunk::<4>().copied());
        count.map_or(0, u32::from_be_bytes)
    }
}

/// A connection with channel 1 open.
pub(super) struct Client {
    socket: TcpStream,
    read: Vec<u8>,
    /// Where the first byte is that was not looked at.
    at: usize,
    /// A delivery whose content is not here yet, and how long its body will be once it is known.
    begun: Option<(Came, Option<usize>)>,
    /// What was looked at already and is still to be given out.
    seen: VecDeque<Came>,
}

impl Client {
    /// Logs in as guest, within so long.
    pub(super) fn new(address: SocketAddr, within: Duration) -> Result<Self> {
        let socket = TcpStream::connect_timeout(&address, within)?;
        socket.set_nodelay(true)?;
        // A connection that an alarm blocks is not read.
        socket.set_write_timeout(Some(LOOK_AFTER))?;
        let mut client = Self {
            socket,
            read: Vec::new(),
            at: 0,
            begun: None,
            seen: VecDeque::new(),
        };
        let deadline = Instant::now() + within;
        client.socket.write_all(b"AMQP\0\0\x09\x01")?;
        client.expect((10, 10), deadline)?;
        let mut start = Vec::new();
        let capability = b"\x12connection.blockedt\x01";
        let mut properties = b"\x0ccapabilitiesF".to_vec();
        properties.extend_from_slice(&long(capability));
        start.extend_from_slice(&long(&properties));
        short(&mut start, "PLAIN");
        start.extend_from_slice(&long(b"\0guest\0guest"));
        short(&mut start, "en_US");
        client.send(0, (10, 11), &start)?;
        client.expect((10, 30), deadline)?;
        client.send(0, (10, 31), &[0, 16, 0, 2, 0, 0, 0, 0])?;
        client.send(0, (10, 40), b"\x01/\0\0")?;
        client.expect((10, 41), deadline)?;
        client.send(1, (20, 10), &[0])?;
        client.expect((20, 11), deadline)?;
        Ok(client)
    }

    fn send(&mut self, channel: u16, id: Id, arguments: &[u8]) -> Result<()> {
        let mut frames = Vec::new();
        method(&mut frames, channel, id, arguments);
        Ok(self.socket.write_all(&frames)?)
    }

    /// Sends a method on channel 1.
    pub(super) fn call(&mut self, id: Id, arguments: &[u8]) -> Result<()> {
        self.send(1, id, arguments)
    }

    /// Publishes a persistent message to a queue; tells whether it was read, as it is not while the
    /// connection is blocked.
    pub(super) fn publish(&mut self, queue: &str, body: &[u8], deadline: Instant) -> Result<bool> {
        let mut publish = vec![0, 0, 0];
        short(&mut publish, queue);
        publish.push(0);
        let mut frames = Vec::with_capacity(body.len() + 256);
        method(&mut frames, 1, (60, 40), &publish);
        let mut header = vec![0, 60, 0, 0];
        header.extend_from_slice(&(body.len() as u64).to_be_bytes());
        // Only a delivery mode: persistent.
        header.extend_from_slice(&[0x10, 0x00, 2]);
        frame(&mut frames, HEADER, 1, &header);
        for piece in body.chunks(FRAME_MAX - 8) {
            frame(&mut frames, BODY, 1, piece);
        }
        self.write(&frames, deadline)
    }

    /// Writes all of it, unless the client is told that it is blocked; tells whether it did.
    fn write(&mut self, mut rest: &[u8], deadline: Instant) -> Result<bool> {
        while !rest.is_empty() {
            match self.socket.write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or(&[]),
                Err(error) if is_late(&error) => {
                    // Whatever has come by now.
                    while let Some(came) = self.read_on(Instant::now() + POLL)? {
                        self.seen.push_back(came);
                    }
                    if self.seen.iter().any(|came| came.id == BLOCKED) {
                        return Ok(false);
                    }
                    if Instant::now() > deadline {
                        bail!("a publish is not read, and the client is not blocked");
                    }
                }
                Err(error) => return Err(error).context("publishing"),
            }
        }
        Ok(true)
    }

    /// Declares a durable queue, or with `passive` asks for it.
    pub(super) fn declare(&mut self, queue: &str, passive: bool) -> Result<()> {
        let mut arguments = vec![0, 0];
        short(&mut arguments, queue);
        arguments.push(if passive { 3 } else { 2 });
        arguments.extend_from_slice(&[0; 4]);
        self.call((50, 10), &arguments)
    }

    /// Deletes a queue.
    pub(super) fn delete(&mut self, queue: &str) -> Result<()> {
        let mut arguments = vec![0, 0];
        short(&mut arguments, queue);
        arguments.push(0);
        self.call((50, 40), &arguments)
    }

    /// Has up to `prefetch` messages delivered.
    pub(super) fn consume(&mut self, queue: &str, prefetch: u16) -> Result<()> {
        let mut qos = vec![0; 4];
        qos.extend_from_slice(&prefetch.to_be_bytes());
        qos.push(0);
        self.call((60, 10), &qos)?;
        let mut arguments = vec![0, 0];
        short(&mut arguments, queue);
        short(&mut arguments, "");
        arguments.push(0);
        arguments.extend_from_slice(&[0; 4]);
        self.call((60, 20), &arguments)
    }

    /// Acknowledges all deliveries up to a tag.
    pub(super) fn ack(&mut self, tag: u64, multiple: bool) -> Result<()> {
        let mut arguments = tag.to_be_bytes().to_vec();
        arguments.push(u8::from(multiple));
        self.call((60, 80), &arguments)
    }

    /// Waits for this method; everything else but deliveries and blocks is an error.
    pub(super) fn expect(&mut self, id: Id, deadline: Instant) -> Result<Came> {
        loop {
            let came = self.next(deadline)?;
            let Some(came) = came else {
                bail!("no answer {id:?} in time");
            };
            match came.id {
                other if other == id => return Ok(came),
                DELIVER | BLOCKED | (10, 61) | ACK | NACK => {}
                other => bail!(
                    "{other:?} instead of {id:?}: {}",
                    String::from_utf8_lossy(&came.arguments)
                ),
            }
        }
    }

    /// The next method, with its body; nothing if none comes until then.
    pub(super) fn next(&mut self, deadline: Instant) -> Result<Option<Came>> {
        match self.seen.pop_front() {
            Some(came) => Ok(Some(came)),
            None => self.read_on(deadline),
        }
    }

    fn read_on(&mut self, deadline: Instant) -> Result<Option<Came>> {
        loop {
            if let Some(came) = self.take()? {
                return Ok(Some(came));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            let mut buffer = [0; 65_536];
            match self.socket.read(&mut buffer) {
                Ok(0) => bail!("the broker hung up"),
                Ok(read) => {
                    self.read.drain(..std::mem::take(&mut self.at));
                    self.read
                        .extend_from_slice(buffer.get(..read).unwrap_or(&[]));
                }
                // Nothing came in time, or a signal did: there may be time left.
                Err(error) if is_late(&error) => {}
                Err(error) => return Err(error).context("reading"),
            }
        }
    }

    /// A method that is there whole, with the content that belongs to it. Each frame is looked at
    /// once, however many reads a large body takes.
    fn take(&mut self) -> Result<Option<Came>> {
        while let Some((kind, payload)) = frame_at(&self.read, &mut self.at) {
            let (came, len) = match (kind, self.begun.take()) {
                (HEARTBEAT, begun) => {
                    self.begun = begun;
                    continue;
                }
                (METHOD, None) => {
                    let came = method_of(payload)?;
                    if came.id != DELIVER {
                        return Ok(Some(came));
                    }
                    (came, None)
                }
                (HEADER, Some((came, None))) => (came, Some(body_len(payload)?)),
                (BODY, Some((mut came, Some(len)))) => {
                    came.body.extend_from_slice(payload);
                    (came, Some(len))
                }
                (kind, _) => bail!("a frame of type {kind} out of turn"),
            };
            if len == Some(came.body.len()) {
                return Ok(Some(came));
            }
            self.begun = Some((came, len));
        }
        Ok(None)
    }
}

fn is_late(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

fn method_of(payload: &[u8]) -> Result<Came> {
    let [a, b, c, d, arguments @ ..] = payload else {
        bail!("a method without a number");
    };
    Ok(Came {
        id: (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])),
        arguments: arguments.to_vec(),
        body: Vec::new(),
    })
}

/// The length of the body that a content header announces.
fn body_len(header: &[u8]) -> Result<usize> {
    let len = header.get(4..).and_then(|len| len.first_chunk::<8>());
    let len = len.context("a short content header")?;
    Ok(usize::try_from(u64::from_be_bytes(*len))?)
}

/// The frame that begins at `at`, if it is whole; moves `at` behind it.
fn frame_at<'a>(read: &'a [u8], at: &mut usize) -> Option<(u8, &'a [u8])> {
    let rest = read.get(*at..)?;
    let kind = *rest.first()?;
    let len = u32::from_be_bytes(*rest.get(3..7)?.first_chunk()?);
    let end = 7 + usize::try_from(len).ok()?;
    rest.get(end)?;
    *at += end + 1;
    Some((kind, rest.get(7..end)?))
}

fn frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(payload);
    out.push(0xCE);
}

fn method(out: &mut Vec<u8>, channel: u16, id: Id, arguments: &[u8]) {
    let mut payload = [id.0.to_be_bytes(), id.1.to_be_bytes()].concat();
    payload.extend_from_slice(arguments);
    frame(out, METHOD, channel, &payload);
}

fn short(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).unwrap_or(0));
    out.extend_from_slice(text.as_bytes());
}

fn long(bytes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(bytes.len()).unwrap_or(0);
    [&len.to_be_bytes()[..], bytes].concat()
}
