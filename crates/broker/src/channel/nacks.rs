//! Why a publish is refused, for those who want to know: a return before the nack.

use std::sync::atomic::Ordering;

use leveret_codec::{HardCode, Properties, RawTable, Value, basic_return, content, decode_header};
use leveret_session::Publishes;

use crate::channel::open::OpenChannel;
use crate::queue::drain::nack_reason;

/// The header that says when to try again.
const RETRY_AFTER: &str = "x-retry-after-ms";
/// What a frame has besides its payload, bytes.
const FRAME_BYTES: usize = 8;

impl OpenChannel<'_> {
    /// Returns the messages of a batch that were refused, a bit for each, if the client or one of
    /// the queues wants that.
    #[cold]
    pub(crate) fn return_refused(&mut self, batch: &Publishes<'_>, refused: u128) {
        let asks = self.peer.client.nack_reason.load(Ordering::Relaxed);
        let Some(reason) = nack_reason(&self.effects.refused, asks) else {
            return;
        };
        let (code, text) = (HardCode::ResourceError.code(), reason.text.as_bytes());
        let mut outlet = self.peer.outlet.lock();
        let frame_max = outlet.frame_max();
        let header_max = (frame_max as usize).saturating_sub(FRAME_BYTES);
        for (index, publish) in batch.iter().enumerate() {
            if refused & (1 << index) == 0 {
                continue;
            }
            let header = with_wait(publish.header, reason.retry_after_ms);
            let header = header.filter(|header| header.len() <= header_max);
            let header = header.as_deref().unwrap_or(publish.header);
            self.effects.reply(&mut outlet, |out| {
                basic_return(out, batch.channel, code, text, batch.route);
                content(out, batch.channel, header, publish.body, frame_max);
            });
        }
    }
}

/// A content header with what the publisher is to wait.
fn with_wait(header: &[u8], wait_ms: u64) -> Option<Vec<u8>> {
    let mut properties = Properties::decode(header).ok()?;
    let mut headers = properties.headers.as_ref().map(RawTable::to_table);
    let headers = headers.get_or_insert_default();
    let wait_ms = i64::try_from(wait_ms).unwrap_or(i64::MAX);
    headers.insert(RETRY_AFTER, Value::I64(wait_ms));
    properties.headers = Some(headers.as_raw());
    let mut out = Vec::with_capacity(header.len() + 32);
    properties.encode(decode_header(header).ok()?.body_size, &mut out);
    Some(out)
}
