//! Plays a transcript against whoever answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use serde_json::Value as Json;

use crate::script::{Expected, Place, PolicyChange, Step, Target, Transcript};
use crate::value::Value;
use crate::wire::Message;

/// A broker, or a virtual host of one, that nobody else uses.
pub(crate) trait World {
    fn target(&self) -> Target;
    /// Milliseconds of the broker's clock.
    fn now_ms(&self) -> u64;
    fn wait(&self, ms: u64);
    /// How long an answer may take, milliseconds.
    fn patience_ms(&self) -> u64;
    /// A connection that is logged in, with no channel open.
    fn connect(&self, user: &str, password: &str) -> Box<dyn Wire>;
    fn set_policy(&self, change: &PolicyChange);
    /// Status and answer.
    fn http(&self, method: &str, path: &str, body: &str) -> (u16, Json);
    fn vhost(&self) -> String;
}

/// The client's end of a connection.
pub(crate) trait Wire {
    fn send(&mut self, bytes: &[u8]);
    /// What has come, after some milliseconds of waiting where nothing has; None at the end.
    fn receive(&mut self) -> Option<Vec<u8>>;
    fn cut(self: Box<Self>);
}

#[derive(Default)]
struct Channel {
    is_open: bool,
    inbox: VecDeque<Message>,
    /// What was published since `confirm.select`.
    published: Option<u64>,
    unconfirmed: BTreeSet<u64>,
    /// A content that is coming, and how much of its body.
    partial: Option<(Message, u64, Vec<u8>)>,
}

struct Connection {
    wire: Box<dyn Wire>,
    received: Vec<u8>,
    channels: BTreeMap<u16, Channel>,
    has_ended: bool,
}

pub(crate) struct Player {
    world: Rc<dyn World>,
    connections: BTreeMap<String, Connection>,
    logins: BTreeMap<String, (String, String)>,
    /// The last request over HTTP.
    request: (String, String, String),
    /// Values that have names.
    named: BTreeMap<String, Value>,
    /// Whether `?` is filled in.
    records: bool,
    pub(crate) answers: Vec<Answer>,
}

/// What was recorded.
pub(crate) struct Answer {
    /// The index of the line.
    pub(crate) line: usize,
    /// Whether it goes behind the line rather than in its place.
    pub(crate) is_behind: bool,
    pub(crate) text: String,
}

type Played = Result<(), String>;

impl Player {
    pub(crate) fn new(world: Rc<dyn World>, records: bool) -> Self {
        Self {
            world,
            connections: BTreeMap::new(),
            logins: BTreeMap::new(),
            request: Default::default(),
            named: BTreeMap::new(),
            records,
            answers: Vec::new(),
        }
    }

    pub(crate) fn play(&mut self, transcript: &Transcript) -> Played {
        let target = self.world.target();
        let steps: Vec<_> = transcript
            .lines
            .iter()
            .enumerate()
            .filter(|(_, line)| line.only.is_none_or(|only| only == target))
            .filter_map(|(index, line)| Some((index, line, line.step.as_ref()?)))
            .collect();
        for (place, (index, line, step)) in steps.iter().enumerate() {
            let next = steps.get(place + 1).map(|(_, _, step)| *step);
            self.step(*index, step, next)
                .map_err(|error| format!("line {}: {}\n{error}", line.number, line.text))?;
        }
        self.end(transcript.last())
    }

    fn step(&mut self, index: usize, step: &Step, next: Option<&Step>) -> Played {
        match step {
            Step::Say(place, message) => {
                self.say(place, message)?;
                self.hear_reply(index, place, message, next)
            }
            Step::Ask(place, message) => self.ask(place, message, next),
            Step::Hear(place, expected) => self.hear(index, place, expected),
            Step::Cut(name) => {
                let connection = self
                    .connections
                    .remove(name)
                    .ok_or("there is no connection")?;
                connection.wire.cut();
                Ok(())
            }
            Step::Wait(ms) => {
                self.world.wait(*ms);
                Ok(())
            }
            Step::Login(name, user, password) => {
                let login = (user.clone(), password.clone());
                self.logins.insert(name.clone(), login);
                Ok(())
            }
            Step::Policy(change) => {
                self.world.set_policy(change);
                Ok(())
            }
            Step::Http { method, path, body } => {
                self.request = (method.clone(), path.clone(), body.clone());
                let (status, answer) = self.world.http(method, path, body);
                // What a refusal says is in the lines that follow.
                let is_fine = status < 400 || matches!(next, Some(Step::Json(..)));
                is_fine
                    .then_some(())
                    .ok_or_else(|| format!("{status}: {answer}"))
            }
            Step::Json(path, value) => self.json(index, path, value.as_ref()),
        }
    }

    fn say(&mut self, place: &Place, message: &Message) -> Played {
        self.open(place)?;
        let connection = self.connection(&place.connection)?;
        let channel = connection.channels.entry(place.channel).or_default();
        match message.name.as_str() {
            "confirm.select" => channel.published = Some(0),
            "basic.publish" => {
                if let Some(published) = &mut channel.published {
                    *published += 1;
                    channel.unconfirmed.insert(*published);
                }
            }
            _ => {}
        }
        connection.wire.send(&message.encode(place.channel));
        Ok(())
    }

    fn connection(&mut self, name: &str) -> Result<&mut Connection, String> {
        let connection = self.connections.get_mut(name);
        connection.ok_or_else(|| format!("there is no connection {name}"))
    }

    /// Opens the connection and the channel if they are not.
    fn open(&mut self, place: &Place) -> Played {
        let name = &place.connection;
        if self
            .connections
            .get(name)
            .is_none_or(|connection| connection.has_ended)
        {
            let guest = ("guest".to_owned(), "guest".to_owned());
            let (user, password) = self.logins.get(name).unwrap_or(&guest);
            let connection = Connection {
                wire: self.world.connect(user, password),
                received: Vec::new(),
                channels: BTreeMap::new(),
                has_ended: false,
            };
            self.connections.insert(name.clone(), connection);
        }
        let connection = self.connection(name)?;
        let channel = connection.channels.entry(place.channel).or_default();
        if channel.is_open || place.channel == 0 {
            return Ok(());
        }
        *channel = Channel {
            is_open: true,
            ..Channel::default()
        };
        let open = Message::parse("channel.open").expect("a method");
        connection.wire.send(&open.encode(place.channel));
        let answer = self.next(place, self.world.patience_ms())?;
        match answer {
            Some(answer) if answer.name == "channel.open-ok" => Ok(()),
            other => Err(format!(
                "channel.open-ok was to come, not {}",
                told(other.as_ref())
            )),
        }
    }

    /// The next message on a channel, if one comes in time.
    fn next(&mut self, place: &Place, patience_ms: u64) -> Result<Option<Message>, String> {
        let end = self.world.now_ms() + patience_ms;
        loop {
            let connection = self.connection(&place.connection)?;
            let channel = connection.channels.entry(place.channel).or_default();
            if let Some(message) = channel.inbox.pop_front() {
                return Ok(Some(message));
            }
            if connection.has_ended || !connection.receive() && self.world.now_ms() >= end {
                return Ok(None);
            }
        }
    }

    fn hear(&mut self, index: usize, place: &Place, expected: &Expected) -> Played {
        let patience_ms = match expected {
            Expected::Nothing(ms) => *ms,
            Expected::Unknown => 1_500,
            Expected::Message(_) => self.world.patience_ms(),
        };
        let came = self.next(place, patience_ms)?;
        match expected {
            Expected::Unknown if self.records => {
                self.record(index, false, place, came);
                Ok(())
            }
            Expected::Unknown => Err(format!("not recorded yet; came {}", told(came.as_ref()))),
            Expected::Nothing(_) if came.is_none() => Ok(()),
            Expected::Nothing(_) => Err(format!("came {}", told(came.as_ref()))),
            Expected::Message(expected) => match came {
                Some(came) if expected.matches(&came) => self.remember(expected, &came),
                came => Err(format!("came {}", told(came.as_ref()))),
            },
        }
    }

    /// A name stands for the same value each time.
    fn remember(&mut self, expected: &Message, came: &Message) -> Played {
        for (name, value) in expected.named(came) {
            let known = self.named.entry(name.to_owned());
            let known = known.or_insert_with(|| value.clone());
            if known != value {
                return Err(format!("{name} was {known} and is now {value}, in {came}"));
            }
        }
        Ok(())
    }

    /// In a recording, adds the reply that no line expects yet.
    fn hear_reply(
        &mut self,
        index: usize,
        place: &Place,
        message: &Message,
        next: Option<&Step>,
    ) -> Played {
        let is_heard = match next {
            Some(Step::Hear(at, expected)) => at == place && !matches!(expected, Expected::Unknown),
            _ => false,
        };
        let has_reply = !message.is_set("nowait")
            && !["basic.publish", "basic.ack", "basic.nack", "basic.reject"]
                .contains(&message.name.as_str());
        if self.records && has_reply && !is_heard {
            let came = self.next(place, self.world.patience_ms())?;
            self.record(index, true, place, came);
        }
        Ok(())
    }

    fn record(&mut self, line: usize, is_behind: bool, place: &Place, came: Option<Message>) {
        let came = came.map(|came| self.plain(came));
        let came = came.unwrap_or_else(|| "nothing for 500 ms".to_owned());
        self.answers.push(Answer {
            line,
            is_behind,
            text: mark(place) + &came,
        });
    }

    /// Repeats it while the answer is another than that of the next line; leaves it to be heard.
    fn ask(&mut self, place: &Place, message: &Message, next: Option<&Step>) -> Played {
        let end = self.world.now_ms() + self.world.patience_ms();
        loop {
            self.say(place, message)?;
            let came = self.next(place, self.world.patience_ms())?;
            let came = came.ok_or("there was no answer")?;
            let is_right = match next {
                // What was fetched will not be there to be fetched again.
                _ if came.name == "basic.get-ok" => true,
                Some(Step::Hear(_, Expected::Message(expected))) => expected.matches(&came),
                _ => came.name != "basic.get-empty",
            };
            if is_right || self.world.now_ms() >= end {
                let channel = self.connection(&place.connection)?;
                let channel = channel.channels.entry(place.channel).or_default();
                channel.inbox.push_front(came);
                return Ok(());
            }
            self.world.wait(20);
        }
    }

    fn json(&mut self, index: usize, path: &str, expected: Option<&Json>) -> Played {
        let patience_ms = match self.world.target() {
            Target::Leveret => self.world.patience_ms(),
            // Its figures are of some seconds ago.
            Target::RabbitMq => 12_000,
        };
        let end = self.world.now_ms() + patience_ms;
        loop {
            let (method, path_of_request, body) = self.request.clone();
            let (_, answer) = self.world.http(&method, &path_of_request, &body);
            let pointer = format!("/{}", path.replace('.', "/"));
            let found = answer.pointer(&pointer).cloned().unwrap_or(Json::Null);
            if expected == Some(&found) {
                return Ok(());
            }
            let is_late = self.world.now_ms() >= end;
            if self.records && expected.is_none() && (is_late || !found.is_null()) {
                self.answers.push(Answer {
                    line: index,
                    is_behind: false,
                    text: format!("J: {path}={found}"),
                });
                return Ok(());
            }
            if is_late {
                return Err(format!("is {found}, in {answer}"));
            }
            self.world.wait(200);
        }
    }

    /// As it is written down: without what is another in each run.
    fn plain(&self, mut message: Message) -> String {
        for (key, value) in &mut message.fields {
            let generated = matches!(value, Value::Text(text) if text.starts_with(b"amq."));
            if generated
                && ["queue", "consumer-tag", "routing-key", "reply-to"].contains(&key.as_str())
            {
                *value = Value::Any;
            }
        }
        message.to_string().replace(&self.world.vhost(), "{vhost}")
    }

    /// Nothing may have come that no line expects.
    fn end(&mut self, index: usize) -> Played {
        let names: Vec<_> = self.connections.keys().cloned().collect();
        for connection in names {
            if self.connections[&connection].has_ended {
                continue;
            }
            let channels = &self.connections[&connection].channels;
            let open = channels.iter().filter(|(_, channel)| channel.is_open);
            let open: Vec<_> = open.map(|(channel, _)| *channel).collect();
            for channel in open {
                let place = Place {
                    connection: connection.clone(),
                    channel,
                };
                self.end_channel(index, &place)?;
            }
        }
        Ok(())
    }

    fn end_channel(&mut self, index: usize, place: &Place) -> Played {
        let last = Message::parse("basic.qos").expect("a method");
        self.say(place, &last)?;
        loop {
            match self.next(place, self.world.patience_ms())? {
                Some(came) if came.name == "basic.qos-ok" => return Ok(()),
                Some(came) if self.records => {
                    self.record(index, true, place, Some(came));
                }
                other => return Err(format!("at the end came {}", told(other.as_ref()))),
            }
        }
    }
}

impl Connection {
    /// Takes what has come; tells whether there was something.
    fn receive(&mut self) -> bool {
        let Some(bytes) = self.wire.receive() else {
            self.has_ended = true;
            return true;
        };
        self.received.extend_from_slice(&bytes);
        while let Some(len) = frame_len(&self.received) {
            let frame: Vec<u8> = self.received.drain(..len).collect();
            let channel = u16::from_be_bytes([frame[1], frame[2]]);
            self.take(frame[0], channel, &frame[7..len - 1]);
        }
        !bytes.is_empty()
    }

    fn take(&mut self, kind: u8, number: u16, payload: &[u8]) {
        let channel = self.channels.entry(number).or_default();
        match kind {
            1 => {
                let message = Message::decode(payload);
                if message.has_content() {
                    channel.partial = Some((message, 0, Vec::new()));
                } else {
                    channel.take(message.clone());
                    self.answer_close(&message, number);
                }
            }
            2 => {
                let (message, size, _) = channel.partial.as_mut().expect("a method came first");
                *size = message.decode_header(payload);
                channel.complete();
            }
            3 => {
                let (_, _, body) = channel.partial.as_mut().expect("a header came first");
                body.extend_from_slice(payload);
                channel.complete();
            }
            _ => {}
        }
    }

    fn answer_close(&mut self, message: &Message, number: u16) {
        let answer = match message.name.as_str() {
            "channel.close" => "channel.close-ok",
            "connection.close" => "connection.close-ok",
            "connection.close-ok" => {
                self.has_ended = true;
                return;
            }
            "channel.close-ok" => {
                self.channels.entry(number).or_default().is_open = false;
                return;
            }
            _ => return,
        };
        self.channels.entry(number).or_default().is_open = false;
        let answer = Message::parse(answer).expect("a method");
        self.wire.send(&answer.encode(number));
        self.has_ended |= number == 0;
    }
}

impl Channel {
    fn complete(&mut self) {
        let is_whole = |(_, size, body): &mut (Message, u64, Vec<u8>)| *size == body.len() as u64;
        if let Some((mut message, _, body)) = self.partial.take_if(|partial| is_whole(partial)) {
            message.fields.push(("body".to_owned(), Value::Text(body)));
            self.take(message);
        }
    }

    /// A confirm of several is the same as one of each.
    fn take(&mut self, message: Message) {
        let is_confirm = self.published.is_some()
            && ["basic.ack", "basic.nack"].contains(&message.name.as_str());
        if !is_confirm {
            self.inbox.push_back(message);
            return;
        }
        let last = message.number("delivery-tag");
        let first = if message.is_set("multiple") { 0 } else { last };
        let confirmed: Vec<_> = self.unconfirmed.range(first..=last).copied().collect();
        for tag in confirmed {
            self.unconfirmed.remove(&tag);
            let each = Message::parse(&format!("{} delivery-tag={tag}", message.name));
            self.inbox.push_back(each.expect("a method"));
        }
    }
}

/// The length of the frame that these bytes begin with, once they are all there.
fn frame_len(bytes: &[u8]) -> Option<usize> {
    let size: [u8; 4] = bytes.get(3..7)?.try_into().ok()?;
    let len = 8 + u32::from_be_bytes(size) as usize;
    (bytes.len() >= len).then_some(len)
}

fn mark(place: &Place) -> String {
    let connection = if place.connection == "a" {
        ""
    } else {
        &place.connection
    };
    let channel = if place.channel == 1 {
        String::new()
    } else {
        place.channel.to_string()
    };
    format!("S{connection}{channel}: ")
}

fn told(came: Option<&Message>) -> String {
    came.map_or_else(|| "nothing".to_owned(), ToString::to_string)
}
