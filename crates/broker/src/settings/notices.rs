//! Arguments without effect of new queues, for whoever writes the log.

use leveret_codec::Table;
use leveret_settings::without_effect;
use parking_lot::Mutex;

/// So many wait at most; of more only the number is kept, so that a client cannot fill a memory.
const WAITING_MAX: usize = 1_000;

/// An argument that a new queue was declared with and that has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The queue's virtual host.
    pub vhost: String,
    /// The new queue's name.
    pub queue: String,
    /// Which one.
    pub argument: String,
}

/// Those that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Notices(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    notices: Vec<Notice>,
    more: u64,
}

impl Notices {
    /// Notes the arguments of a new queue.
    pub(crate) fn note(&self, vhost: &str, queue: &str, arguments: &Table) {
        for argument in without_effect(arguments) {
            let mut waiting = self.0.lock();
            if waiting.notices.len() >= WAITING_MAX {
                waiting.more += 1;
                continue;
            }
            waiting.notices.push(Notice {
                vhost: vhost.to_owned(),
                queue: queue.to_owned(),
                argument: argument.to_owned(),
            });
        }
    }

    /// Takes what waits, and how many more there were.
    pub fn take(&self) -> (Vec<Notice>, u64) {
        let waiting = std::mem::take(&mut *self.0.lock());
        (waiting.notices, waiting.more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_argument_without_effect_is_noted_once_and_not_without_bound() {
        let notices = Notices::default();
        let arguments: Table = [
            ("x-max-age", leveret_codec::Value::I32(5)),
            ("x-max-length", leveret_codec::Value::I32(5)),
            ("x-queue-mode", leveret_codec::Value::I32(5)),
            ("mine", leveret_codec::Value::I32(5)),
        ]
        .into_iter()
        .collect();
        notices.note("v", "q", &arguments);
        let notice = Notice {
            vhost: "v".into(),
            queue: "q".into(),
            argument: "x-max-age".into(),
        };
        assert_eq!(notices.take(), (vec![notice], 0));
        for _ in 0..WAITING_MAX + 3 {
            notices.note("v", "q", &arguments);
        }
        let (taken, more) = notices.take();
        assert_eq!((taken.len(), more), (WAITING_MAX, 3));
        assert_eq!(notices.take(), (Vec::new(), 0));
    }
}
