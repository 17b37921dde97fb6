//! A cursor over received bytes: every read is checked, borrows from the input and never panics.

use crate::frame::FrameError;
use crate::table::RawTable;

/// A position in a payload, reading the specification's elementary domains.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// Bits of the current octet that consecutive `bit` fields still share.
    bits: u8,
    bits_left: u8,
}

const SHORT: FrameError = FrameError::Malformed("payload ends early");

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) fn new(rest: &'a [u8]) -> Self {
        Self {
            rest,
            bits: 0,
            bits_left: 0,
        }
    }

    /// Bytes not read yet.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    fn chunk<const N: usize>(&mut self) -> Result<&'a [u8; N], FrameError> {
        let (chunk, rest) = self.rest.split_first_chunk::<N>().ok_or(SHORT)?;
        self.rest = rest;
        self.bits_left = 0;
        Ok(chunk)
    }

    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], FrameError> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(SHORT)?;
        self.rest = rest;
        self.bits_left = 0;
        Ok(bytes)
    }

    #[inline]
    pub(crate) fn octet(&mut self) -> Result<u8, FrameError> {
        self.chunk().map(|&[octet]| octet)
    }

    #[inline]
    pub(crate) fn short(&mut self) -> Result<u16, FrameError> {
        self.chunk().map(|bytes| u16::from_be_bytes(*bytes))
    }

    #[inline]
    pub(crate) fn long(&mut self) -> Result<u32, FrameError> {
        self.chunk().map(|bytes| u32::from_be_bytes(*bytes))
    }

    #[inline]
    pub(crate) fn longlong(&mut self) -> Result<u64, FrameError> {
        self.chunk().map(|bytes| u64::from_be_bytes(*bytes))
    }

    #[inline]
    pub(crate) fn shortstr(&mut self) -> Result<&'a [u8], FrameError> {
        let len = self.octet()?;
        self.take(usize::from(len))
    }

    #[inline]
    pub(crate) fn longstr(&mut self) -> Result<&'a [u8], FrameError> {
        let len = self.long()?;
        self.take(len as usize)
    }

    pub(crate) fn table(&mut self) -> Result<RawTable<'a>, FrameError> {
        RawTable::parse(self.longstr()?)
    }

    /// Consecutive bits share an octet, lowest bit first.
    pub(crate) fn bit(&mut self) -> Result<bool, FrameError> {
        if self.bits_left == 0 {
            self.bits = self.octet()?;
            self.bits_left = 8;
        }
        let bit = self.bits & 1 == 1;
        self.bits >>= 1;
        self.bits_left = self.bits_left.saturating_sub(1);
        Ok(bit)
    }
}
