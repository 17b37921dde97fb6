//! Messages and settlements found whole in one read, before anything is copied.

use leveret_codec::{
    FRAME_END, Frame, FrameKind, decode_ack, decode_header, decode_nack, decode_publish,
    decode_reject, frame, method_id,
};

use crate::batch::{MessagePlace, Settlement, Verdict};
use crate::fault::Fault;

/// A message that could still be completed by the next read stays in the read buffer up to here.
const IN_PLACE_BYTES_MAX: usize = 16 * 1024;

pub(crate) const PUBLISH: (u16, u16) = (60, 40);
pub(crate) const ACK: (u16, u16) = (60, 80);
pub(crate) const REJECT: (u16, u16) = (60, 90);
pub(crate) const NACK: (u16, u16) = (60, 120);

/// One message whose frames follow each other without others between.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WholeMessage {
    pub(crate) channel: u16,
    /// Where it begins.
    start: usize,
    pub(crate) route: (usize, usize),
    pub(crate) header: (usize, usize),
    pub(crate) body: (usize, usize),
    pub(crate) end: usize,
    mandatory: bool,
}

impl WholeMessage {
    pub(crate) fn place(&self) -> Option<MessagePlace> {
        let range =
            |(from, to): (usize, usize)| Some((u32::try_from(from).ok()?, u32::try_from(to).ok()?));
        Some(MessagePlace {
            header: range(self.header)?,
            body: range(self.body)?,
            mandatory: self.mandatory,
        })
    }

    /// The message that begins where this one ends, if it differs from this one in nothing but its
    /// body's bytes: then nothing needs to be read again.
    #[inline]
    pub(crate) fn followed_by_like(&self, input: &[u8]) -> Option<Self> {
        let step = self.end - self.start;
        let model = input.get(self.start..self.body.0)?;
        let next = input.get(self.end..self.end + step)?;
        if next.get(..model.len())? != model || next.last() != Some(&FRAME_END) {
            return None;
        }
        let moved = |(from, to): (usize, usize)| (from + step, to + step);
        Some(Self {
            start: self.end,
            route: moved(self.route),
            header: moved(self.header),
            body: moved(self.body),
            end: self.end + step,
            ..*self
        })
    }
}

/// Reads publish, content header and body frame at `start`, if they are all there and lawful;
/// anything else goes frame by frame, where errors are found.
#[inline]
pub(crate) fn whole_message(input: &[u8], start: usize, frame_max: u32) -> Option<WholeMessage> {
    let (method, len) = frame(input.get(start..)?, frame_max).ok()??;
    if method.kind != FrameKind::Method || method_id(method.payload).ok()? != PUBLISH {
        return None;
    }
    let publish = decode_publish(method.payload).ok()?;
    if publish.immediate {
        return None;
    }
    let header_at = start + len;
    let (header, len) = frame(input.get(header_at..)?, frame_max).ok()??;
    if header.kind != FrameKind::Header || header.channel != method.channel {
        return None;
    }
    let content = decode_header(header.payload).ok()?;
    if content.class_id != PUBLISH.0 || content.weight != 0 {
        return None;
    }
    let body_at = header_at + len;
    let (body, end) = if content.body_size == 0 {
        ((body_at, body_at), body_at)
    } else {
        let (body, len) = frame(input.get(body_at..)?, frame_max).ok()??;
        let whole = body.kind == FrameKind::Body
            && body.channel == method.channel
            && body.payload.len() as u64 == content.body_size;
        if !whole {
            return None;
        }
        (payload_range(body_at, body.payload.len()), body_at + len)
    };
    // Behind the frame head, class, method and ticket.
    let route_at = start + FRAME_HEAD_BYTES + 6;
    Some(WholeMessage {
        channel: method.channel,
        start,
        route: (route_at, route_at + publish.route.len()),
        header: payload_range(header_at, header.payload.len()),
        body,
        end,
        mandatory: publish.mandatory,
    })
}

const FRAME_HEAD_BYTES: usize = 7;

const fn payload_range(frame_at: usize, len: usize) -> (usize, usize) {
    (
        frame_at + FRAME_HEAD_BYTES,
        frame_at + FRAME_HEAD_BYTES + len,
    )
}

/// Whether the message that begins here is merely cut off by the end of the read, small, and lawful
/// so far. `body_max` is in bytes.
///
/// Frames of other channels in between mean that it must be put together frame by frame: whoever
/// sent them may wait for an answer before going on. So may whoever sent all of an unlawful one.
pub(crate) fn completes_soon(rest: &[u8], frame_max: u32, body_max: u64) -> bool {
    let channel = rest.get(1..3);
    let mut at = 0;
    for kind in 1..=3u8 {
        let input = rest.get(at..).unwrap_or_default();
        let Some(len) = leveret_codec::frame_len(input) else {
            return at <= IN_PLACE_BYTES_MAX;
        };
        if input.first() != Some(&kind) || input.get(1..3) != channel {
            return false;
        }
        at += len;
        match frame(input, frame_max) {
            Ok(None) => return at <= IN_PLACE_BYTES_MAX,
            Ok(Some((frame, _))) if more_follows(&frame, body_max) => {}
            _ => return false,
        }
    }
    false
}

/// Whether this part of a message is lawful and not its last.
fn more_follows(part: &Frame<'_>, body_max: u64) -> bool {
    match part.kind {
        FrameKind::Method => decode_publish(part.payload).is_ok_and(|publish| !publish.immediate),
        FrameKind::Header => decode_header(part.payload).is_ok_and(|header| {
            let sizes = 1..=body_max;
            (header.class_id, header.weight) == (PUBLISH.0, 0) && sizes.contains(&header.body_size)
        }),
        FrameKind::Body | FrameKind::Heartbeat => false,
    }
}

pub(crate) fn settlement(payload: &[u8]) -> Result<Option<Settlement>, Fault> {
    let method = method_id(payload)?;
    let back = |requeue, back| if requeue { back } else { Verdict::Discard };
    let (tag, multiple, verdict) = match method {
        ACK => {
            let ack = decode_ack(payload)?;
            (ack.delivery_tag, ack.multiple, Verdict::Ack)
        }
        NACK => {
            let nack = decode_nack(payload)?;
            let verdict = back(nack.requeue, Verdict::Requeue);
            (nack.delivery_tag, nack.multiple, verdict)
        }
        REJECT => {
            let reject = decode_reject(payload)?;
            let verdict = back(reject.requeue, Verdict::Retry);
            (reject.delivery_tag, false, verdict)
        }
        _ => return Ok(None),
    };
    Ok(Some(Settlement {
        tag,
        multiple,
        verdict,
        method,
    }))
}
