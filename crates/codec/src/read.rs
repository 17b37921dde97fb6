//! A cursor over received bytes: every read is checked, borrows from the input and never panics.

use nom::Parser;
use nom::bytes::complete::take;
use nom::multi::length_data;
use nom::number::complete::{be_u8, be_u16, be_u32, be_u64};

use crate::frame::FrameError;
use crate::table::RawTable;

/// A position in a payload, reading the specification's elementary domains.
#[derive(Clone, Copy)]
pub(crate) struct PayloadReader<'a> {
    rest: &'a [u8],
    /// Bits of the current octet that consecutive `bit` fields still share.
    bits: u8,
    bits_left: u8,
}

const SHORT: FrameError = FrameError::Malformed("payload ends early");

impl<'a> PayloadReader<'a> {
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

    /// Reads what `domain` parses; that it does not can only mean that bytes are missing.
    #[inline]
    fn parse<O>(
        &mut self,
        mut domain: impl Parser<&'a [u8], Output = O, Error = ()>,
    ) -> Result<O, FrameError> {
        let (rest, value) = domain.parse(self.rest).map_err(|_| SHORT)?;
        self.rest = rest;
        self.bits_left = 0;
        Ok(value)
    }

    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], FrameError> {
        self.parse(take(len))
    }

    #[inline]
    pub(crate) fn octet(&mut self) -> Result<u8, FrameError> {
        self.parse(be_u8)
    }

    #[inline]
    pub(crate) fn short(&mut self) -> Result<u16, FrameError> {
        self.parse(be_u16)
    }

    #[inline]
    pub(crate) fn long(&mut self) -> Result<u32, FrameError> {
        self.parse(be_u32)
    }

    #[inline]
    pub(crate) fn longlong(&mut self) -> Result<u64, FrameError> {
        self.parse(be_u64)
    }

    #[inline]
    pub(crate) fn shortstr(&mut self) -> Result<&'a [u8], FrameError> {
        self.parse(length_data(be_u8))
    }

    #[inline]
    pub(crate) fn longstr(&mut self) -> Result<&'a [u8], FrameError> {
        self.parse(length_data(be_u32))
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
