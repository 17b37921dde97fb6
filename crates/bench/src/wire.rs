//! The few AMQP 0-9-1 frames the generator and the floors speak, written and read by hand.
//!
//! Knows bytes only: no sockets, no connection state.

/// Ends every frame.
pub const FRAME_END: u8 = 0xCE;
/// Frame type of a method.
pub const METHOD: u8 = 1;
/// Frame type of a content header.
pub const HEADER: u8 = 2;
/// Bytes of a frame before its payload: type, channel, size.
pub const HEAD: usize = 7;
/// What a client sends first.
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\0\0\x09\x01";

/// Class and method number of a method.
pub type MethodId = (u16, u16);

/// `connection.start`
pub const CONNECTION_START: MethodId = (10, 10);
/// `connection.start-ok`
pub const CONNECTION_START_OK: MethodId = (10, 11);
/// `connection.tune`
pub const CONNECTION_TUNE: MethodId = (10, 30);
/// `connection.tune-ok`
pub const CONNECTION_TUNE_OK: MethodId = (10, 31);
/// `connection.open`
pub const CONNECTION_OPEN: MethodId = (10, 40);
/// `connection.open-ok`
pub const CONNECTION_OPEN_OK: MethodId = (10, 41);
/// `connection.close`
pub const CONNECTION_CLOSE: MethodId = (10, 50);
/// `connection.close-ok`
pub const CONNECTION_CLOSE_OK: MethodId = (10, 51);
/// `connection.blocked`
pub const CONNECTION_BLOCKED: MethodId = (10, 60);
/// `connection.unblocked`
pub const CONNECTION_UNBLOCKED: MethodId = (10, 61);
/// `channel.open`
pub const CHANNEL_OPEN: MethodId = (20, 10);
/// `channel.open-ok`
pub const CHANNEL_OPEN_OK: MethodId = (20, 11);
/// `channel.close`
pub const CHANNEL_CLOSE: MethodId = (20, 40);
/// `channel.close-ok`
pub const CHANNEL_CLOSE_OK: MethodId = (20, 41);
/// `exchange.declare`
pub const EXCHANGE_DECLARE: MethodId = (40, 10);
/// `exchange.declare-ok`
pub const EXCHANGE_DECLARE_OK: MethodId = (40, 11);
/// `exchange.delete`
pub const EXCHANGE_DELETE: MethodId = (40, 20);
/// `exchange.delete-ok`
pub const EXCHANGE_DELETE_OK: MethodId = (40, 21);
/// `queue.declare`
pub const QUEUE_DECLARE: MethodId = (50, 10);
/// `queue.declare-ok`
pub const QUEUE_DECLARE_OK: MethodId = (50, 11);
/// `queue.bind`
pub const QUEUE_BIND: MethodId = (50, 20);
/// `queue.bind-ok`
pub const QUEUE_BIND_OK: MethodId = (50, 21);
/// `queue.purge`
pub const QUEUE_PURGE: MethodId = (50, 30);
/// `queue.purge-ok`
pub const QUEUE_PURGE_OK: MethodId = (50, 31);
/// `queue.delete`
pub const QUEUE_DELETE: MethodId = (50, 40);
/// `queue.delete-ok`
pub const QUEUE_DELETE_OK: MethodId = (50, 41);
/// `basic.qos`
pub const BASIC_QOS: MethodId = (60, 10);
/// `basic.qos-ok`
pub const BASIC_QOS_OK: MethodId = (60, 11);
/// `basic.consume`
pub const BASIC_CONSUME: MethodId = (60, 20);
/// `basic.consume-ok`
pub const BASIC_CONSUME_OK: MethodId = (60, 21);
/// `basic.publish`
pub const BASIC_PUBLISH: MethodId = (60, 40);
/// `basic.deliver`
pub const BASIC_DELIVER: MethodId = (60, 60);
/// `basic.reject`
pub const BASIC_REJECT: MethodId = (60, 90);
/// `basic.ack`
pub const BASIC_ACK: MethodId = (60, 80);
/// `basic.nack`
pub const BASIC_NACK: MethodId = (60, 120);
/// `confirm.select`
pub const CONFIRM_SELECT: MethodId = (85, 10);
/// `confirm.select-ok`
pub const CONFIRM_SELECT_OK: MethodId = (85, 11);

/// A named value of a field table.
pub type Argument = (&'static str, Value);

/// The value of an [`Argument`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// A signed 32-bit integer.
    Number(i32),
    /// A long string.
    Text(&'static str),
}

/// Builds one method frame field by field.
pub struct Method(Vec<u8>);

impl Method {
    /// Starts a method frame on `channel`.
    pub fn new(channel: u16, (class, method): MethodId) -> Self {
        let mut bytes = vec![METHOD];
        bytes.extend(channel.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(class.to_be_bytes());
        bytes.extend(method.to_be_bytes());
        Self(bytes)
    }

    /// Appends an octet.
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    /// Appends a short.
    pub fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Appends a long.
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Appends a long long.
    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Appends a short string of at most 255 bytes.
    pub fn short(mut self, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.0
            .push(u8::try_from(value.len()).expect("names here are short"));
        self.0.extend(value);
        self
    }

    /// Appends a long string; with an empty value also an empty table.
    pub fn long(mut self, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.0.extend((value.len() as u32).to_be_bytes());
        self.0.extend(value);
        self
    }

    /// Appends a field table.
    pub fn table(self, arguments: &[Argument]) -> Self {
        let mut table = Vec::new();
        for (name, value) in arguments {
            table.push(u8::try_from(name.len()).expect("names here are short"));
            table.extend(name.as_bytes());
            match value {
                Value::Number(number) => {
                    table.push(b'I');
                    table.extend(number.to_be_bytes());
                }
                Value::Text(text) => {
                    table.push(b'S');
                    table.extend((text.len() as u32).to_be_bytes());
                    table.extend(text.as_bytes());
                }
            }
        }
        self.long(table)
    }

    /// The finished frame.
    pub fn finish(self) -> Vec<u8> {
        finish(self.0)
    }
}

/// The properties that a message has; what they are worth is stamped later, or always the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Delivery-mode 2.
    pub persistent: bool,
    /// A priority, 0.
    pub priority: bool,
    /// An expiration of [`EXPIRATION_DIGITS`] digits, all 9.
    pub expiration: bool,
}

/// Digits of an expiration in milliseconds.
pub const EXPIRATION_DIGITS: usize = 5;
/// Bytes of a content header frame before the first property.
pub const PROPERTIES_AT: usize = HEAD + 14;

/// A content header frame of class basic.
pub fn content_header(channel: u16, body_bytes: usize, properties: Properties) -> Vec<u8> {
    const DELIVERY_MODE: u16 = 1 << 12;
    const PRIORITY: u16 = 1 << 11;
    const EXPIRATION: u16 = 1 << 8;
    let Properties {
        persistent,
        priority,
        expiration,
    } = properties;
    let mut flags = 0;
    let mut values = Vec::new();
    if persistent {
        flags |= DELIVERY_MODE;
        values.push(2);
    }
    if priority {
        flags |= PRIORITY;
        values.push(0);
    }
    if expiration {
        flags |= EXPIRATION;
        values.push(EXPIRATION_DIGITS as u8);
        values.extend([b'9'; EXPIRATION_DIGITS]);
    }
    let mut bytes = vec![HEADER];
    bytes.extend(channel.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(60_u16.to_be_bytes());
    bytes.extend(0_u16.to_be_bytes());
    bytes.extend((body_bytes as u64).to_be_bytes());
    bytes.extend(flags.to_be_bytes());
    bytes.extend(values);
    finish(bytes)
}

/// A content body frame.
pub fn content_body(channel: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![3];
    bytes.extend(channel.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    finish(bytes)
}

fn finish(mut bytes: Vec<u8>) -> Vec<u8> {
    let size = (bytes.len() - HEAD) as u32;
    bytes[3..HEAD].copy_from_slice(&size.to_be_bytes());
    bytes.push(FRAME_END);
    bytes
}

/// One whole frame at the head of some input.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    /// Frame type: 1 method, 2 header, 3 body, 8 heartbeat.
    pub kind: u8,
    /// Channel number.
    pub channel: u16,
    /// What lies between the frame's head and its end octet.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame at the head of `input`, or `None` while it is incomplete.
    pub fn read(input: &'a [u8]) -> Result<Option<Self>, String> {
        let Some(head) = input.first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let Some(&end) = input.get(HEAD + size) else {
            return Ok(None);
        };
        if end != FRAME_END {
            return Err(format!(
                "frame of type {} and {size} bytes has no end octet",
                head[0]
            ));
        }
        let channel = u16::from_be_bytes([head[1], head[2]]);
        Ok(Some(Self {
            kind: head[0],
            channel,
            payload: &input[HEAD..HEAD + size],
        }))
    }

    /// Bytes of the frame on the wire.
    pub fn size(&self) -> usize {
        HEAD + self.payload.len() + 1
    }

    /// Class and method of a method frame, and its fields.
    pub fn method(&self) -> Option<(MethodId, Fields<'a>)> {
        let mut fields = Fields(self.payload);
        let is_method = self.kind == METHOD && self.payload.len() >= 4;
        is_method.then(|| ((fields.u16(), fields.u16()), fields))
    }
}

/// Reads a method's fields in order; a field beyond the end reads as zero or empty.
#[derive(Clone, Copy)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// The next `count` bytes, or what is left.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn number(&mut self, bytes: usize) -> u64 {
        self.bytes(bytes)
            .iter()
            .fold(0, |value, &byte| value << 8 | u64::from(byte))
    }

    /// The next octet.
    pub fn u8(&mut self) -> u8 {
        self.number(1) as u8
    }

    /// The next short.
    pub fn u16(&mut self) -> u16 {
        self.number(2) as u16
    }

    /// The next long.
    pub fn u32(&mut self) -> u32 {
        self.number(4) as u32
    }

    /// The next long long.
    pub fn u64(&mut self) -> u64 {
        self.number(8)
    }

    /// The next short string.
    pub fn short(&mut self) -> &'a [u8] {
        let length = usize::from(self.u8());
        self.bytes(length)
    }
}

/// `name` and the server's text of a close method's fields.
pub fn close_text(mut fields: Fields<'_>) -> String {
    let code = fields.u16();
    format!("{code} {}", String::from_utf8_lossy(fields.short()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_reads_back_as_written() {
        let bytes = Method::new(7, BASIC_DELIVER)
            .short("ctag")
            .u64(9)
            .u8(1)
            .finish();
        let frame = Frame::read(&bytes).unwrap().unwrap();
        assert_eq!((frame.channel, frame.size()), (7, bytes.len()));
        let (id, mut fields) = frame.method().unwrap();
        assert_eq!(id, BASIC_DELIVER);
        assert_eq!(
            (fields.short(), fields.u64(), fields.u8()),
            (&b"ctag"[..], 9, 1)
        );
        assert_eq!(fields.u32(), 0, "past the end reads as zero");
    }

    #[test]
    fn an_incomplete_frame_waits_and_a_wrong_end_fails() {
        let mut bytes = content_body(1, b"hello");
        assert!(Frame::read(&bytes[..bytes.len() - 1]).unwrap().is_none());
        *bytes.last_mut().unwrap() = 0;
        assert!(Frame::read(&bytes).is_err());
    }
}
