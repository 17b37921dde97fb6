//! Content headers: checked and forwarded as raw bytes, decoded only where a property matters.

use crate::frame::FrameError;
use crate::read::PayloadReader;
use crate::table::RawTable;
use crate::write::{longstr, shortstr};

/// The bit of each property of class `basic` in the first word of property flags.
pub mod flag {
    /// MIME type of the body.
    pub const CONTENT_TYPE: u16 = 1 << 15;
    /// MIME encoding of the body.
    pub const CONTENT_ENCODING: u16 = 1 << 14;
    /// The application's header table.
    pub const HEADERS: u16 = 1 << 13;
    /// 2 for persistent.
    pub const DELIVERY_MODE: u16 = 1 << 12;
    /// Priority, 0 to 255.
    pub const PRIORITY: u16 = 1 << 11;
    /// Names the request that a reply answers.
    pub const CORRELATION_ID: u16 = 1 << 10;
    /// Where replies go.
    pub const REPLY_TO: u16 = 1 << 9;
    /// Time to live, in milliseconds as decimal text.
    pub const EXPIRATION: u16 = 1 << 8;
    /// The application's message id.
    pub const MESSAGE_ID: u16 = 1 << 7;
    /// Seconds since 1970.
    pub const TIMESTAMP: u16 = 1 << 6;
    /// The application's message type.
    pub const KIND: u16 = 1 << 5;
    /// The publishing user.
    pub const USER_ID: u16 = 1 << 4;
    /// The publishing application.
    pub const APP_ID: u16 = 1 << 3;
    /// Reserved by the specification, still carried.
    pub const CLUSTER_ID: u16 = 1 << 2;
    /// Another word of flags follows this one.
    pub(crate) const CONTINUATION: u16 = 1;
    /// All fourteen properties.
    pub(crate) const PROPERTIES: u16 = 0xFFFC;
}

/// The class id of `basic`, the only class with content.
const CLASS_BASIC: u16 = 60;

/// The fixed part of a content header, and the whole of it as received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContentHeader<'a> {
    /// The class of the method before; must be the same as in that method.
    pub class_id: u16,
    /// Unused; must be zero.
    pub weight: u16,
    /// Bytes of body to come.
    pub body_size: u64,
    /// The whole payload of the header frame.
    pub raw: &'a [u8],
}

/// Reads the fixed part of a header frame's payload, whatever follows it.
pub fn decode_header_start(payload: &[u8]) -> Result<ContentHeader<'_>, FrameError> {
    let mut reader = PayloadReader::new(payload);
    Ok(ContentHeader {
        class_id: reader.short()?,
        weight: reader.short()?,
        body_size: reader.longlong()?,
        raw: payload,
    })
}

/// Checks the payload of a header frame: every flagged property must be well-formed, the header
/// table down to its depth. Bytes behind the properties are ignored.
#[inline]
pub fn decode_header(payload: &[u8]) -> Result<ContentHeader<'_>, FrameError> {
    let mut reader = PayloadReader::new(payload);
    let class_id = reader.short()?;
    let weight = reader.short()?;
    let body_size = reader.longlong()?;
    let mut left = read_flags(&mut reader)?;
    while left != 0 {
        let bit = 0x8000_u16.wrapping_shr(left.leading_zeros());
        left &= !bit;
        match bit {
            flag::HEADERS => drop(reader.table()?),
            flag::DELIVERY_MODE | flag::PRIORITY => drop(reader.octet()?),
            flag::TIMESTAMP => drop(reader.longlong()?),
            _ => drop(reader.shortstr()?),
        }
    }
    Ok(ContentHeader {
        class_id,
        weight,
        body_size,
        raw: payload,
    })
}

/// Reads all words of property flags; only the first one has properties of class `basic`.
#[inline]
fn read_flags(reader: &mut PayloadReader<'_>) -> Result<u16, FrameError> {
    let flags = reader.short()?;
    let mut word = flags;
    while word & flag::CONTINUATION != 0 {
        word = reader.short()?;
    }
    Ok(flags & flag::PROPERTIES)
}

/// A reader at the first property of a header payload, and the flags.
#[inline]
fn properties(raw: &[u8]) -> Result<(u16, PayloadReader<'_>), FrameError> {
    let mut reader = PayloadReader::new(raw);
    // Class, weight and body size.
    reader.take(12)?;
    let flags = read_flags(&mut reader)?;
    Ok((flags, reader))
}

/// The [`flag`]s of the properties that a header payload has.
#[inline]
#[must_use]
pub fn property_flags(raw: &[u8]) -> u16 {
    match raw.get(12..14) {
        Some(&[high, low]) => u16::from_be_bytes([high, low]),
        _ => 0,
    }
}

/// Whether a header payload has the property of this [`flag`].
#[inline]
#[must_use]
pub fn has_property(raw: &[u8], flag: u16) -> bool {
    property_flags(raw) & flag != 0
}

/// The delivery mode of a header payload: 2 is persistent; 0 if the property is absent.
#[inline]
#[must_use]
pub fn delivery_mode(raw: &[u8]) -> u8 {
    octet_property(raw, flag::DELIVERY_MODE).unwrap_or(0)
}

/// The priority of a header payload.
#[inline]
#[must_use]
pub fn priority(raw: &[u8]) -> Option<u8> {
    octet_property(raw, flag::PRIORITY)
}

/// The header table of a header payload.
#[must_use]
pub fn headers(raw: &[u8]) -> Option<RawTable<'_>> {
    let (flags, mut reader) = properties(raw).ok()?;
    if flags & flag::HEADERS == 0 {
        return None;
    }
    skip_strings(flags, &mut reader).ok()?;
    reader.table().ok()
}

#[inline]
fn octet_property(raw: &[u8], wanted: u16) -> Option<u8> {
    if !has_property(raw, wanted) {
        return None;
    }
    let (flags, mut reader) = properties(raw).ok()?;
    skip_strings(flags, &mut reader).ok()?;
    if flags & flag::HEADERS != 0 {
        reader.longstr().ok()?;
    }
    if wanted == flag::PRIORITY && flags & flag::DELIVERY_MODE != 0 {
        reader.octet().ok()?;
    }
    reader.octet().ok()
}

/// Steps over the two strings that stand before the header table.
#[inline]
fn skip_strings(flags: u16, reader: &mut PayloadReader<'_>) -> Result<(), FrameError> {
    for bit in [flag::CONTENT_TYPE, flag::CONTENT_ENCODING] {
        if flags & bit != 0 {
            reader.shortstr()?;
        }
    }
    Ok(())
}

/// All properties of class `basic`; an absent one is something else than an empty one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the fields are described by their flags")]
pub struct Properties<'a> {
    pub content_type: Option<&'a [u8]>,
    pub content_encoding: Option<&'a [u8]>,
    pub headers: Option<RawTable<'a>>,
    pub delivery_mode: Option<u8>,
    pub priority: Option<u8>,
    pub correlation_id: Option<&'a [u8]>,
    pub reply_to: Option<&'a [u8]>,
    pub expiration: Option<&'a [u8]>,
    pub message_id: Option<&'a [u8]>,
    pub timestamp: Option<u64>,
    pub kind: Option<&'a [u8]>,
    pub user_id: Option<&'a [u8]>,
    pub app_id: Option<&'a [u8]>,
    pub cluster_id: Option<&'a [u8]>,
}

impl<'a> Properties<'a> {
    /// Decodes the properties of a header frame's payload.
    pub fn decode(raw: &'a [u8]) -> Result<Self, FrameError> {
        let (flags, mut reader) = properties(raw)?;
        macro_rules! property {
            ($flag:ident $read:ident) => {
                if flags & flag::$flag != 0 {
                    Some(reader.$read()?)
                } else {
                    None
                }
            };
        }
        // Fields are evaluated in the order written, which is the order on the wire.
        Ok(Self {
            content_type: property!(CONTENT_TYPE shortstr),
            content_encoding: property!(CONTENT_ENCODING shortstr),
            headers: property!(HEADERS table),
            delivery_mode: property!(DELIVERY_MODE octet),
            priority: property!(PRIORITY octet),
            correlation_id: property!(CORRELATION_ID shortstr),
            reply_to: property!(REPLY_TO shortstr),
            expiration: property!(EXPIRATION shortstr),
            message_id: property!(MESSAGE_ID shortstr),
            timestamp: property!(TIMESTAMP longlong),
            kind: property!(KIND shortstr),
            user_id: property!(USER_ID shortstr),
            app_id: property!(APP_ID shortstr),
            cluster_id: property!(CLUSTER_ID shortstr),
        })
    }

    /// Appends the payload of a header frame of class `basic`; short strings are cut to 255 bytes.
    pub fn encode(&self, body_size: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&CLASS_BASIC.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&body_size.to_be_bytes());
        out.extend_from_slice(&self.flags().to_be_bytes());
        for text in [self.content_type, self.content_encoding]
            .into_iter()
            .flatten()
        {
            shortstr(out, text);
        }
        if let Some(headers) = self.headers {
            longstr(out, headers.as_bytes());
        }
        out.extend(self.delivery_mode);
        out.extend(self.priority);
        let [before, after] = self.later_strings();
        for text in before.into_iter().flatten() {
            shortstr(out, text);
        }
        if let Some(seconds) = self.timestamp {
            out.extend_from_slice(&seconds.to_be_bytes());
        }
        for text in after.into_iter().flatten() {
            shortstr(out, text);
        }
    }

    /// The four strings before and the four behind the timestamp.
    fn later_strings(&self) -> [[Option<&'a [u8]>; 4]; 2] {
        [
            [
                self.correlation_id,
                self.reply_to,
                self.expiration,
                self.message_id,
            ],
            [self.kind, self.user_id, self.app_id, self.cluster_id],
        ]
    }

    /// The word of flags that says which properties are present.
    #[must_use]
    pub fn flags(&self) -> u16 {
        let present = [
            self.content_type.is_some(),
            self.content_encoding.is_some(),
            self.headers.is_some(),
            self.delivery_mode.is_some(),
            self.priority.is_some(),
            self.correlation_id.is_some(),
            self.reply_to.is_some(),
            self.expiration.is_some(),
            self.message_id.is_some(),
            self.timestamp.is_some(),
            self.kind.is_some(),
            self.user_id.is_some(),
            self.app_id.is_some(),
            self.cluster_id.is_some(),
        ];
        let bits = present
            .iter()
            .fold(0, |bits: u16, &bit| bits.wrapping_shl(1) | u16::from(bit));
        // Fourteen properties fill the word from the top; two bits stay.
        bits.wrapping_shl(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Class 60, weight 0, five bytes of body, then flags and properties.
    fn raw(flags: &[u16], properties: &[u8]) -> Vec<u8> {
        let mut raw = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
        flags
            .iter()
            .for_each(|word| raw.extend_from_slice(&word.to_be_bytes()));
        raw.extend_from_slice(properties);
        raw
    }

    #[test]
    fn absent_is_not_empty() {
        let empty = Properties {
            correlation_id: Some(b""),
            ..Properties::default()
        };
        let mut with = Vec::new();
        empty.encode(0, &mut with);
        let mut without = Vec::new();
        Properties::default().encode(0, &mut without);
        assert_ne!(with, without);
        assert_eq!(Properties::decode(&with), Ok(empty));
        assert_eq!(Properties::decode(&without), Ok(Properties::default()));
        assert_eq!(delivery_mode(&without), 0);
        assert_eq!(priority(&without), None);
    }

    #[test]
    fn every_flag_stands_for_its_own_property() {
        // Values that tell their property, each well-formed for its type.
        let all = Properties {
            content_type: Some(b"0"),
            content_encoding: Some(b"1"),
            headers: Some(RawTable::parse(b"\x01kV").unwrap()),
            delivery_mode: Some(2),
            priority: Some(9),
            correlation_id: Some(b"5"),
            reply_to: Some(b"6"),
            expiration: Some(b"7"),
            message_id: Some(b"8"),
            timestamp: Some(9),
            kind: Some(b"10"),
            user_id: Some(b"11"),
            app_id: Some(b"12"),
            cluster_id: Some(b"13"),
        };
        assert_eq!(all.flags(), flag::PROPERTIES);
        let one = |flags: u16| {
            let pick = |flag: u16| flags & flag != 0;
            Properties {
                content_type: all.content_type.filter(|_| pick(flag::CONTENT_TYPE)),
                content_encoding: all
                    .content_encoding
                    .filter(|_| pick(flag::CONTENT_ENCODING)),
                headers: all.headers.filter(|_| pick(flag::HEADERS)),
                delivery_mode: all.delivery_mode.filter(|_| pick(flag::DELIVERY_MODE)),
                priority: all.priority.filter(|_| pick(flag::PRIORITY)),
                correlation_id: all.correlation_id.filter(|_| pick(flag::CORRELATION_ID)),
                reply_to: all.reply_to.filter(|_| pick(flag::REPLY_TO)),
                expiration: all.expiration.filter(|_| pick(flag::EXPIRATION)),
                message_id: all.message_id.filter(|_| pick(flag::MESSAGE_ID)),
                timestamp: all.timestamp.filter(|_| pick(flag::TIMESTAMP)),
                kind: all.kind.filter(|_| pick(flag::KIND)),
                user_id: all.user_id.filter(|_| pick(flag::USER_ID)),
                app_id: all.app_id.filter(|_| pick(flag::APP_ID)),
                cluster_id: all.cluster_id.filter(|_| pick(flag::CLUSTER_ID)),
            }
        };
        for flags in (0..=flag::PROPERTIES).step_by(4) {
            let properties = one(flags);
            assert_eq!(properties.flags(), flags);
            let mut raw = Vec::new();
            properties.encode(1, &mut raw);
            assert_eq!(Properties::decode(&raw), Ok(properties));
            assert!(decode_header(&raw).is_ok());
            assert_eq!(delivery_mode(&raw), properties.delivery_mode.unwrap_or(0));
            assert_eq!(priority(&raw), properties.priority);
            assert_eq!(headers(&raw), properties.headers);
            assert_eq!(
                has_property(&raw, flag::EXPIRATION),
                properties.expiration.is_some()
            );
        }
    }

    #[test]
    fn further_words_of_flags_are_stepped_over() {
        let words = [
            flag::DELIVERY_MODE | flag::CONTINUATION,
            flag::CONTINUATION,
            0,
        ];
        let header = raw(&words, &[2]);
        assert_eq!(decode_header(&header).unwrap().body_size, 5);
        assert_eq!(delivery_mode(&header), 2);
        let endless = raw(&[flag::CONTINUATION; 40], &[]);
        assert!(decode_header(&endless).is_err());
    }

    #[test]
    fn every_truncation_is_malformed_and_trailing_bytes_are_not() {
        let flags = flag::CONTENT_TYPE | flag::HEADERS | flag::DELIVERY_MODE | flag::TIMESTAMP;
        let mut raw = raw(&[flags], b"\x02ct\0\0\0\x03\x01kV\x02\0\0\0\0\0\0\0\x01");
        for len in 0..raw.len() {
            let refused = decode_header(&raw[..len]);
            assert!(matches!(refused, Err(FrameError::Malformed(_))), "{len}");
            let _ = (delivery_mode(&raw[..len]), headers(&raw[..len]));
        }
        raw.push(0);
        assert_eq!(decode_header(&raw).unwrap().raw, raw);
    }

    #[test]
    fn one_property_can_be_changed_and_the_header_table_stays_verbatim() {
        // Unsorted, with a duplicate and both spellings of a 64-bit integer: nothing is normalised.
        let table = b"\x01zl\0\0\0\0\0\0\0\x01\x01aL\0\0\0\0\0\0\0\x02\x01zV";
        let before = Properties {
            headers: Some(RawTable::parse(table).unwrap()),
            expiration: Some(b"60000"),
            app_id: Some(b"\xFF"),
            ..Properties::default()
        };
        let mut raw = Vec::new();
        before.encode(5, &mut raw);
        let mut spliced = Vec::new();
        let after = Properties {
            expiration: None,
            ..Properties::decode(&raw).unwrap()
        };
        after.encode(5, &mut spliced);
        let read = Properties::decode(&spliced).unwrap();
        assert_eq!(read.headers.unwrap().as_bytes(), table);
        assert_eq!((read.expiration, read.app_id), (None, Some(&b"\xFF"[..])));
        assert!(!has_property(&spliced, flag::EXPIRATION));
    }
}
