//! Writing the specification's elementary domains and whole method frames into a buffer.

use crate::frame::{FRAME_END, FRAME_METHOD};
use crate::table::RawTable;

/// The longest short string the wire can carry, in bytes.
const SHORTSTR_MAX: usize = 255;

/// Appends one method frame: [`Writer::method`], then its fields, then [`Writer::end`].
pub(crate) struct Writer<'o> {
    out: &'o mut Vec<u8>,
    /// Where the frame's size field stands in `out`.
    size_at: usize,
    bits: u8,
    bits_used: u8,
}

impl<'o> Writer<'o> {
    pub(crate) fn method(out: &'o mut Vec<u8>, channel: u16, id: (u16, u16)) -> Self {
        out.push(FRAME_METHOD);
        out.extend_from_slice(&channel.to_be_bytes());
        let size_at = out.len();
        let mut writer = Self {
            out,
            size_at,
            bits: 0,
            bits_used: 0,
        };
        writer.long(0);
        writer.short(id.0);
        writer.short(id.1);
        writer
    }

    /// Fills in the frame's size and writes the frame end.
    pub(crate) fn end(mut self) {
        self.flush_bits();
        patch_len(self.out, self.size_at);
        self.out.push(FRAME_END);
    }

    pub(crate) fn octet(&mut self, value: u8) {
        self.put(&[value]);
    }

    pub(crate) fn short(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    pub(crate) fn long(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    pub(crate) fn longlong(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }

    pub(crate) fn shortstr(&mut self, value: &[u8]) {
        self.flush_bits();
        shortstr(self.out, value);
    }

    pub(crate) fn longstr(&mut self, value: &[u8]) {
        self.flush_bits();
        longstr(self.out, value);
    }

    pub(crate) fn table(&mut self, value: RawTable<'_>) {
        self.longstr(value.as_bytes());
    }

    pub(crate) fn bit(&mut self, value: bool) {
        if self.bits_used == 8 {
            self.flush_bits();
        }
        self.bits |= u8::from(value).wrapping_shl(u32::from(self.bits_used));
        self.bits_used = self.bits_used.saturating_add(1);
    }

    /// Bytes that already have the form the wire wants.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.put(bytes);
    }

    fn put(&mut self, bytes: &[u8]) {
        self.flush_bits();
        self.out.extend_from_slice(bytes);
    }

    fn flush_bits(&mut self) {
        if self.bits_used > 0 {
            self.out.push(self.bits);
            self.bits = 0;
            self.bits_used = 0;
        }
    }
}

/// Appends a length octet and the string, cut to 255 bytes at a character boundary.
pub(crate) fn shortstr(out: &mut Vec<u8>, value: &[u8]) {
    let value = cut(value);
    // `cut` leaves at most 255 bytes, so the length is the octet.
    out.push(value.len() as u8);
    out.extend_from_slice(value);
}

/// Appends a four-byte length and the string; what does not fit the length field is cut off.
pub(crate) fn longstr(out: &mut Vec<u8>, value: &[u8]) {
    let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(value.get(..len as usize).unwrap_or(value));
}

/// Writes into the four bytes at `at` how many bytes follow them.
pub(crate) fn patch_len(out: &mut [u8], at: usize) {
    if let Some((field, rest)) = out
        .get_mut(at..)
        .and_then(<[u8]>::split_first_chunk_mut::<4>)
    {
        *field = u32::try_from(rest.len()).unwrap_or(u32::MAX).to_be_bytes();
    }
}

/// The longest prefix of `text` that fits a short string and does not end inside a character.
///
/// Bytes that are not UTF-8 are cut at the limit itself.
pub(crate) fn cut(text: &[u8]) -> &[u8] {
    if text.len() <= SHORTSTR_MAX {
        return text;
    }
    // A character has at most three continuation bytes, so its start is within reach of the limit.
    let boundary = (SHORTSTR_MAX.saturating_sub(3)..=SHORTSTR_MAX)
        .rev()
        .find(|&at| text.get(at).is_some_and(|byte| byte & 0xC0 != 0x80))
        .unwrap_or(SHORTSTR_MAX);
    text.get(..boundary).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_keeps_what_fits() {
        assert_eq!(cut(&[b'a'; 255]).len(), 255);
        assert_eq!(cut(&[b'a'; 256]).len(), 255);
        assert_eq!(cut(b""), b"");
    }

    #[test]
    fn cut_stops_before_a_character_it_would_split() {
        for shift in 0..4 {
            let text = "x".repeat(shift) + &"\u{1F980}".repeat(70);
            let kept = cut(text.as_bytes());
            assert!(kept.len() <= 255 && kept.len() > 251, "{}", kept.len());
            assert!(std::str::from_utf8(kept).is_ok());
        }
    }

    #[test]
    fn cut_of_bytes_that_are_no_text_stops_at_the_limit() {
        assert_eq!(cut(&[0x80; 300]).len(), 255);
    }
}
