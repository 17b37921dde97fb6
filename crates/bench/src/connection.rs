//! A blocking AMQP client connection: handshake, setup and teardown of what a scenario needs.
//!
//! Traffic itself does not pass here: publishers and consumers take the socket over.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::wire::{
    Argument, BASIC_CONSUME, BASIC_CONSUME_OK, BASIC_QOS, BASIC_QOS_OK, CHANNEL_CLOSE,
    CHANNEL_CLOSE_OK, CHANNEL_OPEN, CHANNEL_OPEN_OK, CONFIRM_SELECT, CONFIRM_SELECT_OK,
    CONNECTION_BLOCKED, CONNECTION_CLOSE, CONNECTION_CLOSE_OK, CONNECTION_OPEN, CONNECTION_OPEN_OK,
    CONNECTION_START, CONNECTION_START_OK, CONNECTION_TUNE, CONNECTION_TUNE_OK,
    CONNECTION_UNBLOCKED, EXCHANGE_DECLARE, EXCHANGE_DECLARE_OK, EXCHANGE_DELETE,
    EXCHANGE_DELETE_OK, Fields, Frame, METHOD, Method, MethodId, PROTOCOL_HEADER, QUEUE_BIND,
    QUEUE_BIND_OK, QUEUE_DECLARE, QUEUE_DECLARE_OK, QUEUE_DELETE, QUEUE_DELETE_OK, QUEUE_PURGE,
    QUEUE_PURGE_OK, close_text,
};

/// The only channel the generator uses on a connection.
pub const CHANNEL: u16 = 1;
/// Longest wait for a reply during setup; deleting many queues is slow on some brokers.
const REPLY_TIMEOUT: Duration = Duration::from_secs(120);

/// How a queue is declared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QueueKind {
    /// Exclusive and auto-delete: gone with the declaring connection.
    Temporary,
    /// Durable and shared; the scenario deletes it.
    Durable,
}

/// An open connection with one open channel.
pub struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Connection {
    /// Connects, logs in as guest and opens channel 1. `heartbeat_s` 0 switches heartbeats off.
    pub fn open(address: SocketAddr, heartbeat_s: u16) -> Result<Self, String> {
        let mut connection = Self::connect(address)?;
        connection.handshake(heartbeat_s)?;
        connection.call(
            Method::new(CHANNEL, CHANNEL_OPEN).short(""),
            CHANNEL_OPEN_OK,
        )?;
        Ok(connection)
    }

    fn connect(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(address).map_err(|e| format!("connect {address}: {e}"))?;
        stream.set_nodelay(true).map_err(text)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT)).map_err(text)?;
        Ok(Self {
            stream,
            input: Vec::new(),
        })
    }

    fn handshake(&mut self, heartbeat_s: u16) -> Result<(), String> {
        self.stream.write_all(&PROTOCOL_HEADER).map_err(text)?;
        self.expect(CONNECTION_START)?;
        let start_ok = Method::new(0, CONNECTION_START_OK)
            .long("")
            .short("PLAIN")
            .long("\0guest\0guest")
            .short("en_US");
        let tune = self.call(start_ok, CONNECTION_TUNE)?;
        let mut fields = Fields(&tune);
        let (channels, frame_max) = (fields.u16(), fields.u32());
        let tune_ok = Method::new(0, CONNECTION_TUNE_OK)
            .u16(channels)
            .u32(frame_max)
            .u16(heartbeat_s);
        self.send(&tune_ok.finish())?;
        let open = Method::new(0, CONNECTION_OPEN).short("/").short("").u8(0);
        self.call(open, CONNECTION_OPEN_OK).map(drop)
    }

    /// Sends raw frames.
    pub fn send(&mut self, frames: &[u8]) -> Result<(), String> {
        self.stream.write_all(frames).map_err(text)
    }

    /// Sends `request` and returns the fields of the reply, which must be `reply`.
    pub fn call(&mut self, request: Method, reply: MethodId) -> Result<Vec<u8>, String> {
        self.send(&request.finish())?;
        self.expect(reply)
    }

    /// The fields of the next method, which must be `wanted`.
    pub fn expect(&mut self, wanted: MethodId) -> Result<Vec<u8>, String> {
        let (got, fields) = self.receive()?;
        if got == wanted {
            return Ok(fields);
        }
        Err(format!("expected method {wanted:?}, got {got:?}"))
    }

    /// The next method and its fields; a close by the server is an error.
    pub fn receive(&mut self) -> Result<(MethodId, Vec<u8>), String> {
        loop {
            while let Some(frame) = Frame::read(&self.input)? {
                let size = frame.size();
                let method = frame.method().map(|(id, fields)| (id, fields.0.to_vec()));
                let kind = frame.kind;
                self.input.drain(..size);
                match method {
                    Some((CONNECTION_CLOSE | CHANNEL_CLOSE, fields)) => {
                        return Err(format!(
                            "closed by the server: {}",
                            close_text(Fields(&fields))
                        ));
                    }
                    Some((CONNECTION_BLOCKED | CONNECTION_UNBLOCKED, _)) => {}
                    Some(method) => return Ok(method),
                    None if kind == METHOD => return Err("method without an id".into()),
                    None => {} // heartbeats, and contents nobody waits for any more
                }
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<(), String> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer).map_err(text)? {
            0 => Err("the server closed the socket".into()),
            count => {
                self.input.extend_from_slice(&buffer[..count]);
                Ok(())
            }
        }
    }

    /// Declares a non-durable, auto-delete exchange, as `kind`.
    pub fn declare_exchange(&mut self, name: &str, kind: &str) -> Result<(), String> {
        const AUTO_DELETE: u8 = 0b100;
        let declare = Method::new(CHANNEL, EXCHANGE_DECLARE)
            .u16(0)
            .short(name)
            .short(kind);
        self.call(declare.u8(AUTO_DELETE).long(""), EXCHANGE_DECLARE_OK)
            .map(drop)
    }

    /// Makes a durable or transient queue without further arguments.
    pub fn declare_queue(&mut self, name: &str, kind: QueueKind) -> Result<(), String> {
        self.declare_queue_with(name, kind, &[])
    }

    /// Declares a queue with arguments.
    pub fn declare_queue_with(
        &mut self,
        name: &str,
        kind: QueueKind,
        arguments: &[Argument],
    ) -> Result<(), String> {
        let declare = declare_queue_with(name, kind, arguments);
        self.call(declare, QUEUE_DECLARE_OK).map(drop)
    }

    /// Messages ready in an existing queue; also a barrier for what this channel published before.
    pub fn messages_ready(&mut self, queue: &str) -> Result<u32, String> {
        const PASSIVE: u8 = 1;
        let declare = Method::new(CHANNEL, QUEUE_DECLARE)
            .u16(0)
            .short(queue)
            .u8(PASSIVE)
            .long("");
        let reply = self.call(declare, QUEUE_DECLARE_OK)?;
        let mut fields = Fields(&reply);
        fields.short();
        Ok(fields.u32())
    }

    /// Binds a queue.
    pub fn bind(&mut self, queue: &str, exchange: &str, key: &str) -> Result<(), String> {
        self.call(bind_queue(queue, exchange, key), QUEUE_BIND_OK)
            .map(drop)
    }

    /// Empties a queue; returns how many messages it held.
    pub fn purge(&mut self, queue: &str) -> Result<u32, String> {
        let purge = Method::new(CHANNEL, QUEUE_PURGE).u16(0).short(queue).u8(0);
        Ok(Fields(&self.call(purge, QUEUE_PURGE_OK)?).u32())
    }

    /// Deletes a queue; one that does not exist is fine.
    pub fn delete_queue(&mut self, name: &str) -> Result<(), String> {
        self.call(delete_queue(name), QUEUE_DELETE_OK).map(drop)
    }

    /// Deletes an exchange; one that does not exist is fine.
    pub fn delete_exchange(&mut self, name: &str) -> Result<(), String> {
        let delete = Method::new(CHANNEL, EXCHANGE_DELETE)
            .u16(0)
            .short(name)
            .u8(0);
        self.call(delete, EXCHANGE_DELETE_OK).map(drop)
    }

    /// Limits unacknowledged deliveries per consumer; 0 is no limit.
    pub fn prefetch(&mut self, count: u16) -> Result<(), String> {
        let qos = Method::new(CHANNEL, BASIC_QOS).u32(0).u16(count).u8(0);
        self.call(qos, BASIC_QOS_OK).map(drop)
    }

    /// Starts a consumer.
    pub fn consume(&mut self, queue: &str, tag: &str, no_ack: bool) -> Result<(), String> {
        let flags = if no_ack { 0b10 } else { 0 };
        let consume = Method::new(CHANNEL, BASIC_CONSUME)
            .u16(0)
            .short(queue)
            .short(tag);
        self.send(&consume.u8(flags).long("").finish())?;
        self.expect(BASIC_CONSUME_OK).map(drop)
    }

    /// Switches publisher confirms on.
    pub fn confirm(&mut self) -> Result<(), String> {
        self.call(
            Method::new(CHANNEL, CONFIRM_SELECT).u8(0),
            CONFIRM_SELECT_OK,
        )
        .map(drop)
    }

    /// Closes the channel, which reports an error the server had sent before, then the connection.
    pub fn close(mut self) -> Result<(), String> {
        self.close_channel()?;
        let close = Method::new(0, CONNECTION_CLOSE)
            .u16(200)
            .short("done")
            .u32(0);
        self.call(close, CONNECTION_CLOSE_OK).map(drop)
    }

    /// Closes channel 1 only.
    pub fn close_channel(&mut self) -> Result<(), String> {
        let close = Method::new(CHANNEL, CHANNEL_CLOSE)
            .u16(200)
            .short("done")
            .u32(0);
        self.call(close, CHANNEL_CLOSE_OK).map(drop)
    }

    /// The socket and bytes read but not yet understood.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.input)
    }

    /// Takes back a socket whose unread input begins with `input`.
    pub fn from_parts(stream: TcpStream, input: Vec<u8>) -> Result<Self, String> {
        stream.set_read_timeout(Some(REPLY_TIMEOUT)).map_err(text)?;
        Ok(Self { stream, input })
    }
}

/// The `queue.declare` of a new queue.
pub fn declare_queue(name: &str, kind: QueueKind) -> Method {
    declare_queue_with(name, kind, &[])
}

fn declare_queue_with(name: &str, kind: QueueKind, arguments: &[Argument]) -> Method {
    let flags = match kind {
        QueueKind::Temporary => 0b0_1100,
        QueueKind::Durable => 0b0_0010,
    };
    Method::new(CHANNEL, QUEUE_DECLARE)
        .u16(0)
        .short(name)
        .u8(flags)
        .table(arguments)
}

/// The `queue.bind` of a queue.
pub fn bind_queue(queue: &str, exchange: &str, key: &str) -> Method {
    let bind = Method::new(CHANNEL, QUEUE_BIND)
        .u16(0)
        .short(queue)
        .short(exchange)
        .short(key);
    bind.u8(0).long("")
}

/// The `queue.delete` of a queue.
pub fn delete_queue(name: &str) -> Method {
    Method::new(CHANNEL, QUEUE_DELETE).u16(0).short(name).u8(0)
}

/// An I/O error as text.
pub fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
