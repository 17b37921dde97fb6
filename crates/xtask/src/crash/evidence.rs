//! What the clients of a process-crash run wrote down, and whether the broker kept its promises.
//!
//! The lines are described in `tests/clients/python/crash/evidence.py`.

use std::collections::HashMap;
use std::fmt;

use anyhow::{Context as _, Result, bail};

use super::moved::Moved;

/// The queue of dead messages: they are all persistent, and die in one order and another.
const DEAD: &str = "dead-out";
/// How much later than its sending a settlement may become durable, in milliseconds.
const SETTLED_WITHIN_MS: u64 = 1000;
/// It has so many beats of the machine's pulse besides, of which a second has some forty: where the
/// machine or its disk stood still, nothing became durable.
const SETTLED_WITHIN_BEATS: usize = 8;
/// Where a publisher's messages go, in turn; the clients have the same list.
const ROUTES: [&[&str]; 4] = [
    &["crash-fan-0", "crash-fan-1", "crash-fan-2"],
    &["crash-a"],
    &["crash-b"],
    &["crash-t"],
];

/// When the broker lived. Its lives are numbered from 0.
#[derive(Default)]
pub(crate) struct Lives {
    /// When each life was ended by a signal: before it was sent, and when the process was gone.
    pub(crate) kills: Vec<(u64, u64)>,
    /// When the machine's pulse was felt, in order.
    pub(crate) beats: Vec<u64>,
}

impl Lives {
    /// The life that a connection begun at `time` was made in.
    fn at(&self, time: u64) -> usize {
        self.kills.partition_point(|&(_, gone)| gone <= time)
    }

    /// Whether what was sent at `time` in `life` had long enough to become durable before its end.
    fn in_time(&self, life: usize, time: u64) -> bool {
        let end = self.kills.get(life).map_or(u64::MAX, |&(sent, _)| sent);
        let beats_until = |time| self.beats.partition_point(|&beat| beat <= time);
        let beats = beats_until(end).saturating_sub(beats_until(time));
        time.saturating_add(SETTLED_WITHIN_MS) < end && beats >= SETTLED_WITHIN_BEATS
    }
}

/// A promise that can be broken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Promise {
    /// Confirmed persistent messages reach every queue of their route.
    Confirmed,
    /// What was acknowledged in time does not come back.
    Settled,
    /// Messages of one publisher come in order.
    Order,
    /// Transient messages do not survive.
    Transient,
    /// A message given back says so when it comes again.
    Redelivered,
    /// Dead messages are where they go, once.
    Moved,
    /// What the clients see themselves: topology, whole bodies, the ledger's model.
    Told,
}

impl Promise {
    /// All of them.
    pub(crate) const ALL: [Self; 7] = [
        Self::Confirmed,
        Self::Settled,
        Self::Order,
        Self::Transient,
        Self::Redelivered,
        Self::Moved,
        Self::Told,
    ];
}

impl fmt::Display for Promise {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Confirmed => "nothing confirmed is lost",
            Self::Settled => "nothing acknowledged a second before comes back",
            Self::Order => "each queue keeps its order",
            Self::Transient => "transient messages are gone",
            Self::Redelivered => "what was given back is marked",
            Self::Moved => "each dead message is moved on exactly once",
            Self::Told => "topology, bodies and the ledger hold",
        })
    }
}

/// One broken promise.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Breach {
    /// Which.
    pub(crate) promise: Promise,
    /// How.
    pub(crate) text: String,
}

/// What all files together say.
#[derive(Default)]
pub(crate) struct Evidence {
    lives: Lives,
    publishers: HashMap<String, Published>,
    queues: HashMap<(String, String), Vec<Seen>>,
    moved: Moved,
    /// Every broken promise found so far.
    pub(crate) breaches: Vec<Breach>,
    /// Remarks of the clients.
    pub(crate) remarks: Vec<String>,
    /// Deliveries seen.
    pub(crate) deliveries: u64,
}

/// One publisher's side.
#[derive(Default)]
struct Published {
    /// First number and life of each connection.
    sessions: Vec<(u64, usize)>,
    confirmed: Vec<bool>,
}

/// One message in one queue, as its consumer saw it.
#[derive(Clone, Copy, Default)]
struct Seen {
    acknowledged: Option<Settlement>,
    returned: Option<Settlement>,
}

#[derive(Clone, Copy)]
struct Settlement {
    time: u64,
    life: usize,
}

/// How far one consumer's connection is.
#[derive(Default)]
struct Session {
    life: usize,
    begun: u64,
    highest: HashMap<(String, String), u64>,
}

fn is_transient(number: u64) -> bool {
    number % 7 == 3
}

impl Evidence {
    /// With the times at which the broker was killed.
    pub(crate) fn new(lives: Lives) -> Self {
        Self {
            lives,
            ..Self::default()
        }
    }

    /// How many messages were confirmed.
    pub(crate) fn confirmed(&self) -> usize {
        let all = self.publishers.values();
        all.map(|one| one.confirmed.iter().filter(|&&yes| yes).count())
            .sum()
    }

    /// Reads a publisher's file. To be read before those of the consumers.
    ///
    /// # Errors
    /// It is not what a client writes.
    pub(crate) fn read_publisher(&mut self, name: &str, text: &str) -> Result<()> {
        let mut published = Published::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["O", begun, number] => {
                    let life = self.lives.at(begun.parse()?);
                    published.sessions.push((number.parse()?, life));
                }
                ["C", first, last] => published.confirm(first.parse()?, last.parse()?),
                ["N", first, last] => self.breach(
                    Promise::Told,
                    format!("{name}: {first} to {last} were refused"),
                ),
                _ => self.other(name, line)?,
            }
        }
        self.publishers.insert(name.to_owned(), published);
        Ok(())
    }

    /// Reads the file of the client whose messages die.
    ///
    /// # Errors
    /// It is not what that client writes.
    pub(crate) fn read_mortals(&mut self, name: &str, text: &str) -> Result<()> {
        let mut others = String::new();
        for line in text.lines() {
            if !self.moved.read(line)? {
                others += line;
                others.push('\n');
            }
        }
        for text in self.moved.breaches() {
            self.breach(Promise::Moved, text);
        }
        self.remarks
            .push(format!("{} dead messages moved on", self.moved.count()));
        self.read_consumer(name, &others)
    }

    /// Reads the file of a consumer, or of the ledger.
    ///
    /// # Errors
    /// It is not what a client writes.
    pub(crate) fn read_consumer(&mut self, name: &str, text: &str) -> Result<()> {
        let mut session = Session::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["O", begun, _] => {
                    let begun = begun.parse()?;
                    session = Session {
                        life: self.lives.at(begun),
                        begun,
                        highest: HashMap::new(),
                    };
                }
                ["D", queue, publisher, number, again] => {
                    let key = (queue.to_owned(), publisher.to_owned());
                    self.delivery(&mut session, key, number.parse()?, again == "1");
                }
                [word @ ("A" | "Q"), queue, publisher, number, time] => {
                    let settlement = Settlement {
                        time: time.parse()?,
                        life: session.life,
                    };
                    let key = (queue.to_owned(), publisher.to_owned());
                    let seen = self.seen(key, number.parse()?);
                    if word == "A" {
                        (seen.acknowledged, seen.returned) = (Some(settlement), None);
                    } else {
                        seen.returned = Some(settlement);
                    }
                }
                _ => self.other(name, line)?,
            }
        }
        Ok(())
    }

    /// Looks for confirmed messages that never came; for when all queues are empty.
    pub(crate) fn conclude(&mut self) {
        let mut lost = Vec::new();
        for (name, published) in &self.publishers {
            for number in (0_u64..).zip(&published.confirmed) {
                let (number, true) = number else { continue };
                let route = ROUTES[(number % ROUTES.len() as u64) as usize];
                let acknowledged = |queue: &&&str| {
                    let key = ((**queue).to_owned(), name.clone());
                    let seen = self
                        .queues
                        .get(&key)
                        .and_then(|all| all.get(number as usize));
                    seen.is_some_and(|seen| seen.acknowledged.is_some())
                };
                let missing: Vec<_> = route.iter().filter(|q| !acknowledged(q)).collect();
                if !missing.is_empty() && !is_transient(number) {
                    let life = published.life_of(number);
                    lost.push(format!(
                        "{name} {number}, confirmed in life {life}, never came to {missing:?}"
                    ));
                }
            }
        }
        for text in lost {
            self.breach(Promise::Confirmed, text);
        }
    }

    fn delivery(&mut self, session: &mut Session, key: (String, String), number: u64, again: bool) {
        self.deliveries += 1;
        let seen = *self.seen(key.clone(), number);
        let shown = format!("{} {number} in {}", key.1, key.0);
        if let Some(ack) = seen.acknowledged {
            if ack.life >= session.life {
                let text = format!("{shown}: came again without a crash, in life {}", ack.life);
                self.breach(Promise::Settled, text);
            } else if self.lives.in_time(ack.life, ack.time) {
                let before = self.lives.kills.get(ack.life).map_or(0, |kill| kill.0) - ack.time;
                let text = format!(
                    "{shown}: acknowledged {before} ms before the end of life {}, back in life {}",
                    ack.life, session.life
                );
                self.breach(Promise::Settled, text);
            }
        }
        if let Some(back) = seen.returned
            && !again
            && (back.life >= session.life || self.lives.in_time(back.life, back.time))
        {
            let text = format!("{shown}: given back in life {}, not marked", back.life);
            self.breach(Promise::Redelivered, text);
        }
        if key.0 == DEAD {
            return;
        }
        let published = self.publishers.get(&key.1);
        let life = published.map_or(0, |published| published.life_of(number));
        if is_transient(number) && life < session.life {
            let text = format!(
                "{shown}: published in life {life}, still there in {}",
                session.life
            );
            self.breach(Promise::Transient, text);
        }
        let given_back_here = seen.returned.is_some_and(|back| back.time >= session.begun);
        if given_back_here {
            return;
        }
        if let Some(highest) = session.highest.insert(key, number)
            && highest >= number
        {
            let text = format!("{shown}: came after {highest} in life {}", session.life);
            self.breach(Promise::Order, text);
        }
    }

    fn seen(&mut self, key: (String, String), number: u64) -> &mut Seen {
        let all = self.queues.entry(key).or_default();
        let index = number as usize;
        if all.len() <= index {
            all.resize(index + 1, Seen::default());
        }
        &mut all[index]
    }

    fn other(&mut self, name: &str, line: &str) -> Result<()> {
        match line.split_once(' ').context("a line without words")? {
            ("V", text) => self.breach(Promise::Told, format!("{name}: {text}")),
            ("I", text) => self.remarks.push(text.to_owned()),
            ("X", _) => {}
            _ => bail!("{name} wrote {line:?}"),
        }
        Ok(())
    }

    fn breach(&mut self, promise: Promise, text: String) {
        self.breaches.push(Breach { promise, text });
    }
}

impl Published {
    fn confirm(&mut self, first: u64, last: u64) {
        let end = last as usize + 1;
        if self.confirmed.len() < end {
            self.confirmed.resize(end, false);
        }
        self.confirmed[first as usize..end].fill(true);
    }

    fn life_of(&self, number: u64) -> usize {
        let session = self.sessions.partition_point(|&(first, _)| first <= number);
        session
            .checked_sub(1)
            .map_or(0, |index| self.sessions[index].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Life 0 ends at 2000, life 1 at 5000; each process was gone 5 ms later.
    fn judged(publisher: &str, consumer: &str) -> Vec<Promise> {
        let lives = Lives {
            kills: vec![(2000, 2005), (5000, 5005)],
            beats: (0..250).map(|beat| beat * 20).collect(),
        };
        judged_of(lives, publisher, consumer)
    }

    fn judged_of(lives: Lives, publisher: &str, consumer: &str) -> Vec<Promise> {
        let mut evidence = Evidence::new(lives);
        evidence.read_publisher("p", publisher).unwrap();
        evidence.read_consumer("c", consumer).unwrap();
        evidence.conclude();
        evidence.breaches.iter().map(|one| one.promise).collect()
    }

    #[test]
    fn what_is_confirmed_has_to_be_acknowledged_in_every_queue_of_its_route() {
        let publisher = "O 100 0\nC 0 1\nX gone";
        let whole = "O 100 0\nD crash-a p 1 0\nA crash-a p 1 9\n\
                     D crash-fan-0 p 0 0\nA crash-fan-0 p 0 9\nD crash-fan-1 p 0 0\n\
                     A crash-fan-1 p 0 9\nD crash-fan-2 p 0 0\nA crash-fan-2 p 0 9";
        assert_eq!(judged(publisher, whole), []);
        let delivered_only = whole.replace("A crash-fan-1 p 0 9\n", "");
        assert_eq!(judged(publisher, &delivered_only), [Promise::Confirmed]);
        assert_eq!(judged("O 100 0\nC 3 3", "O 100 0"), [], "transient");
    }

    #[test]
    fn an_acknowledgement_counts_after_a_second() {
        let again = |time| format!("O 100 0\nD q p 1 0\nA q p 1 {time}\nO 2100 0\nD q p 1 1");
        assert_eq!(judged("O 100 0", &again(900)), [Promise::Settled]);
        assert_eq!(judged("O 100 0", &again(1100)), []);
        let twice = "O 100 0\nD q p 1 0\nA q p 1 1900\nD q p 1 1";
        assert_eq!(judged("O 100 0", twice), [Promise::Settled, Promise::Order]);
    }

    #[test]
    fn time_in_which_the_machine_stood_still_does_not_count() {
        let again = |time| format!("O 100 0\nD q p 1 0\nA q p 1 {time}\nO 2100 0\nD q p 1 1");
        let stood = || Lives {
            kills: vec![(2000, 2005)],
            beats: (0..250)
                .map(|beat| beat * 20)
                .filter(|beat| !(500..1900).contains(beat))
                .collect(),
        };
        assert_eq!(judged_of(stood(), "O 100 0", &again(600)), []);
        assert_eq!(
            judged_of(stood(), "O 100 0", &again(300)),
            [Promise::Settled]
        );
    }

    #[test]
    fn an_acknowledgement_to_a_dead_broker_belongs_to_the_life_of_its_connection() {
        let late = "O 100 0\nD q p 1 0\nA q p 1 2010\nO 2100 0\nA q p 2 2200\nO 5100 0\nD q p 1 0";
        assert_eq!(judged("O 100 0", late), []);
    }

    #[test]
    fn order_holds_within_a_connection() {
        let publisher = "O 100 0";
        let forward = "O 100 0\nD q p 1 0\nD q p 4 0\nO 2100 0\nD q p 1 1\nD q p 4 1";
        assert_eq!(judged(publisher, forward), []);
        let backward = "O 100 0\nD q p 4 0\nD q p 1 0";
        assert_eq!(judged(publisher, backward), [Promise::Order]);
    }

    #[test]
    fn what_was_given_back_comes_again_marked_and_out_of_order() {
        let marked = "O 100 0\nD q p 1 0\nQ q p 1 300\nD q p 2 0\nD q p 1 1";
        assert_eq!(judged("O 100 0", marked), []);
        let plain = "O 100 0\nD q p 1 0\nQ q p 1 300\nO 2100 0\nD q p 1 0";
        assert_eq!(judged("O 100 0", plain), [Promise::Redelivered]);
        let late = "O 100 0\nD q p 1 0\nQ q p 1 1300\nO 2100 0\nD q p 1 0";
        assert_eq!(judged("O 100 0", late), []);
    }

    #[test]
    fn transient_messages_end_with_the_life_they_were_published_in() {
        let here = "O 2100 0\nD q p 3 0";
        assert_eq!(judged("O 100 0", here), [Promise::Transient]);
        assert_eq!(judged("O 100 0\nO 2100 2", here), []);
    }

    #[test]
    fn what_the_clients_tell_counts() {
        assert_eq!(judged("O 100 0\nN 1 1", ""), [Promise::Told]);
        assert_eq!(judged("", "V lost\nI fine"), [Promise::Told]);
        let mut evidence = Evidence::new(Lives::default());
        assert!(evidence.read_consumer("c", "nonsense line").is_err());
    }
}
