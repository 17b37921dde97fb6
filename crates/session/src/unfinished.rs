//! Messages that are begun and not complete: how much memory they take, and how long they stand.

use crate::session::Session;

impl Session {
    /// What is read from now on has come at this time.
    pub const fn set_now(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// The read ends with a part of this frame; if it is one of a message, that makes progress.
    pub fn note_partial_frame(&mut self, frame: &[u8]) {
        if let Some([high, low]) = frame.get(1..3) {
            let channel = u16::from_be_bytes([*high, *low]);
            let now_ms = self.now_ms;
            if let Some(channel) = self.open_channel(channel) {
                channel.part_ms = now_ms;
            }
        }
    }

    /// Memory of the messages that are begun and not complete, bytes.
    #[must_use]
    pub const fn unfinished_bytes(&self) -> usize {
        self.assembly_bytes
    }

    /// When the unfinished message that waits longest for more of it got its last part.
    #[must_use]
    pub fn oldest_part_ms(&self) -> Option<u64> {
        let channels = self.channels.iter().flatten();
        let unfinished = channels.filter(|channel| !channel.content.is_idle());
        unfinished.map(|channel| channel.part_ms).min()
    }
}
