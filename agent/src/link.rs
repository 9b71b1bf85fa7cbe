//! The reliable link over one byte channel: handshake, streams, acknowledgements, replay after a reconnect
//! (docs/agent-protocol.md sections 2 to 4). A state machine without I/O: bytes from the port go in through `room` and
//! `received`, bytes for the port come out of `output`; `agent` moves them and acts on the events.

use crate::frames::{encode, Frame, Hello, Kind, Parser, Rule, FIN};
use crate::messages::Assembler;
use crate::streams::{Queue, Receiver, Sender};
use std::collections::{BTreeMap, BTreeSet, HashMap};

const CONTROL: u32 = 0;
const VERSION: u32 = 1;
/// What the host may send ahead on each stdin and on the control stream.
pub const INPUT_WINDOW_BYTES: u64 = 256 * 1024;
/// What an output stream keeps unacknowledged before its process is blocked.
pub const OUTPUT_KEPT_BYTES: usize = 1024 * 1024;
/// Responses and events that wait for a host that does not read them; more closes the connection.
const CONTROL_KEPT_BYTES: usize = 16 * 1024 * 1024;
/// Frames made ready for the port at once: more would let data overtake control frames that come later.
const READY_BYTES: usize = 128 * 1024;
/// ACKs that may wait for a stream whose request is still on its way.
const EARLY_ACKS: usize = 1_024;

#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A HELLO was answered. `resumed`: by the same host process as before.
    Connected { resumed: bool },
    /// One whole message on the control stream.
    Message(Vec<u8>),
    /// Bytes or the end came for this stdin: see `input`.
    Input(u32),
    /// The host acknowledged output of this stream: there may be room again.
    Room(u32),
    /// The connection was closed, by the host or because of a broken rule.
    Closed(String),
}

#[derive(Debug)]
struct Input {
    receiver: Receiver,
    queue: Queue,
    /// Bytes that the process took.
    taken: u64,
}

#[derive(Debug, Default)]
struct Flow {
    output: Option<Sender>,
    input: Option<Input>,
    /// A RESET to send, with its reason.
    reset: Option<&'static str>,
}

pub struct Link {
    parser: Parser,
    assembler: Assembler,
    boot_id: String,
    instance: Option<String>,
    nonce: Option<u32>,
    flows: BTreeMap<u32, Flow>,
    /// Streams that an ACK or RESET is to be sent for.
    due: BTreeSet<u32>,
    /// Streams whose ACK can wait until more has come, or nothing more does: see `settle`.
    lazy: BTreeSet<u32>,
    early: HashMap<u32, (u64, u64)>,
    /// The stream that sent last, for the round robin.
    last: u32,
    ready: Queue,
    generation: u64,
    /// The port has hung up, and nothing has come since.
    away: bool,
}

impl Link {
    pub fn new(boot_id: String) -> Self {
        let mut link = Link {
            parser: Parser::default(),
            assembler: Assembler::default(),
            boot_id,
            instance: None,
            nonce: None,
            flows: BTreeMap::new(),
            due: BTreeSet::new(),
            lazy: BTreeSet::new(),
            early: HashMap::new(),
            last: CONTROL,
            ready: Queue::default(),
            generation: 0,
            away: false,
        };
        link.restart_control();
        link
    }

    fn restart_control(&mut self) {
        self.assembler = Assembler::default();
        self.generation += 1;
        let flow = Flow { output: Some(Sender::default()), input: Some(Input::new()), reset: None };
        self.flows.insert(CONTROL, flow);
    }

    /// Changes with each host process: a response belongs to the one that asked.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn has_instance(&self) -> bool {
        self.instance.is_some()
    }

    // -- the port's side ------------------------------------------------------------------------------------------

    /// Where the port's next bytes go.
    pub fn room(&mut self) -> &mut [u8] {
        self.parser.room()
    }

    /// `count` bytes were put into `room`.
    pub fn received(&mut self, count: usize, events: &mut Vec<Event>) {
        self.parser.filled(count);
        loop {
            match self.step(events) {
                Ok(true) => {}
                Ok(false) => return,
                Err(rule) => self.refuse(rule, events),
            }
        }
    }

    /// The port hung up: what has come of a frame will not be completed, and nothing new is sent. Should frames of the same
    /// connection come all the same, the port has told of an older host's end late (a restored machine's does): it goes on.
    /// What was made ready stays therefore, too: a WELCOME may be in it, and the next host throws the rest away.
    pub fn hung_up(&mut self) {
        self.parser.cut();
        self.away = true;
    }

    /// Bytes for the port, in whole frames behind what was begun. Empty when there is nothing to send.
    pub fn output(&mut self) -> &[u8] {
        if !self.away && self.ready.len() < READY_BYTES / 2 {
            self.fill();
        }
        self.ready.bytes()
    }

    pub fn wrote(&mut self, count: usize) {
        self.ready.take(count);
    }

    fn drop_connection(&mut self) {
        self.nonce = None;
        self.early.clear();
        for flow in self.flows.values_mut() {
            if let Some(sender) = &mut flow.output {
                sender.disconnect();
            }
        }
    }

    /// Closes the connection because the host broke a rule; the next HELLO opens another.
    fn refuse(&mut self, rule: Rule, events: &mut Vec<Event>) {
        self.parser.out_of_step();
        if let Some(nonce) = self.nonce {
            let mut bytes = Vec::new();
            encode(&mut bytes, Kind::Bye, 0, CONTROL, 0, rule.name().as_bytes(), nonce);
            self.ready.push(&bytes);
            events.push(Event::Closed(format!("the host broke the rule {}", rule.name())));
        }
        self.drop_connection();
    }

    fn step(&mut self, events: &mut Vec<Event>) -> Result<bool, Rule> {
        let Some(frame) = self.parser.next_frame()? else { return Ok(false) };
        self.away = false;
        match frame {
            Frame::Hello(hello) => self.welcome(hello, events),
            Frame::Data { stream, offset, fin, bytes } => {
                let Some(input) = self.flows.get_mut(&stream).and_then(|f| f.input.as_mut()) else {
                    return Ok(true);
                };
                let fresh = input.receiver.accept(offset, bytes, fin)?;
                if stream == CONTROL || fin {
                    self.due.insert(stream);
                } else {
                    self.lazy.insert(stream);
                }
                if stream == CONTROL {
                    let count = fresh.len() as u64;
                    self.assembler.push(fresh).map_err(|()| Rule::BadMessage)?;
                    input.taken += count;
                    input.receiver.grant(input.taken + INPUT_WINDOW_BYTES);
                    while let Some(message) = self.assembler.next_message().map_err(|()| Rule::BadMessage)? {
                        events.push(Event::Message(message));
                    }
                } else {
                    input.queue.push(fresh);
                    events.push(Event::Input(stream));
                }
            }
            Frame::Ack { stream, offset, limit } => match self.flows.get_mut(&stream) {
                Some(flow) => {
                    if let Some(sender) = &mut flow.output {
                        sender.acknowledge(offset, limit)?;
                        events.push(Event::Room(stream));
                    }
                }
                None if self.early.len() < EARLY_ACKS => {
                    self.early.insert(stream, (offset, limit));
                }
                None => {}
            },
            Frame::Reset { stream, .. } => {
                if let Some(sender) = self.flows.get_mut(&stream).and_then(|f| f.output.as_mut()) {
                    sender.abandon();
                    events.push(Event::Room(stream));
                }
            }
            Frame::Bye { reason } => {
                events.push(Event::Closed(format!("the host closed the connection: {reason}")));
                self.parser.out_of_step();
                self.drop_connection();
            }
        }
        Ok(true)
    }

    fn welcome(&mut self, hello: Hello, events: &mut Vec<Event>) {
        self.drop_connection();
        self.ready.clear();
        let mut bytes = Vec::new();
        if !hello.versions.contains(&VERSION) {
            let reason = format!("the agent speaks version {VERSION} only");
            encode(&mut bytes, Kind::Bye, 0, CONTROL, 0, reason.as_bytes(), hello.nonce);
            self.ready.push(&bytes);
            self.parser.out_of_step();
            return;
        }
        let resumed = self.instance.as_deref() == Some(hello.instance.as_str());
        if !resumed {
            self.instance = Some(hello.instance);
            self.restart_control();
        }
        self.nonce = Some(hello.nonce);
        self.parser.in_step(hello.nonce);
        let mut payload: Vec<u8> =
            (0..16).map(|i| u8::from_str_radix(&hello.echo[2 * i..2 * i + 2], 16).unwrap_or_default()).collect();
        let text = serde_json::json!({
            "version": VERSION, "agent": env!("CARGO_PKG_VERSION"), "boot_id": self.boot_id, "resumed": resumed,
        });
        payload.extend_from_slice(text.to_string().as_bytes());
        encode(&mut bytes, Kind::Welcome, 0, CONTROL, 0, &payload, hello.nonce);
        self.ready.push(&bytes);
        self.due = self.flows.iter().filter(|(_, f)| f.input.is_some() || f.reset.is_some()).map(|(&s, _)| s).collect();
        events.push(Event::Connected { resumed });
    }

    // -- the streams' side ----------------------------------------------------------------------------------------

    /// Makes the streams of a request known, so that ACKs for them are taken from now on. False when one is in use.
    pub fn open(&mut self, outputs: &[u32], inputs: &[u32]) -> bool {
        let mut all: Vec<u32> = outputs.iter().chain(inputs).copied().collect();
        if all.iter().any(|s| *s == CONTROL || self.flows.contains_key(s)) {
            return false;
        }
        for &stream in inputs {
            self.flows.entry(stream).or_default().input = Some(Input::new());
            self.due.insert(stream);
        }
        for &stream in outputs {
            self.flows.entry(stream).or_default().output = Some(Sender::default());
        }
        all.dedup();
        for stream in all {
            if let Some((offset, limit)) = self.early.remove(&stream) {
                if let Some(sender) = self.flows.get_mut(&stream).and_then(|f| f.output.as_mut()) {
                    // A wrong early ACK cannot be told from a late one of a stream that is gone: it is left out.
                    let _ = sender.acknowledge(offset, limit);
                }
            }
        }
        true
    }

    /// Forgets a stream in both directions.
    pub fn close(&mut self, stream: u32) {
        self.flows.remove(&stream);
        self.due.remove(&stream);
    }

    fn sender(&mut self, stream: u32) -> Option<&mut Sender> {
        self.flows.get_mut(&stream).and_then(|f| f.output.as_mut())
    }

    /// How much more a process may print into this stream before it is blocked, when at most `most` bytes are kept.
    pub fn output_room(&mut self, stream: u32, most: usize) -> usize {
        match self.sender(stream) {
            Some(sender) if !sender.is_over() => most.saturating_sub(sender.kept()),
            // Nobody wants it: it is read and thrown away, so that the process is not disturbed.
            _ => OUTPUT_KEPT_BYTES,
        }
    }

    pub fn write(&mut self, stream: u32, bytes: &[u8]) {
        if let Some(sender) = self.sender(stream) {
            sender.write(bytes);
        }
    }

    pub fn finish(&mut self, stream: u32) {
        if let Some(sender) = self.sender(stream) {
            sender.finish();
        }
    }

    /// What waits for the process on this stdin, and whether the host has ended it.
    pub fn input(&self, stream: u32) -> Option<(&[u8], bool)> {
        let input = self.flows.get(&stream)?.input.as_ref()?;
        Some((input.queue.bytes(), input.receiver.ended()))
    }

    /// The process took `count` bytes: the host gets that much more credit.
    pub fn input_taken(&mut self, stream: u32, count: usize) {
        let Some(input) = self.flows.get_mut(&stream).and_then(|f| f.input.as_mut()) else { return };
        input.queue.take(count);
        input.taken += count as u64;
        let limit = input.taken + INPUT_WINDOW_BYTES;
        if limit - input.receiver.limit() >= INPUT_WINDOW_BYTES / 4 {
            input.receiver.grant(limit);
            self.due.insert(stream);
        } else {
            self.lazy.insert(stream);
        }
    }

    /// True when an ACK waits for `settle`.
    pub fn is_unsettled(&self) -> bool {
        !self.lazy.is_empty()
    }

    /// Nothing more came for a moment: what was put off is acknowledged.
    pub fn settle(&mut self) {
        for stream in std::mem::take(&mut self.lazy) {
            if let Some(input) = self.flows.get_mut(&stream).and_then(|f| f.input.as_mut()) {
                input.receiver.grant(input.taken + INPUT_WINDOW_BYTES);
                self.due.insert(stream);
            }
        }
    }

    /// The process reads no more of this stdin.
    pub fn refuse_input(&mut self, stream: u32, reason: &'static str) {
        let Some(flow) = self.flows.get_mut(&stream) else { return };
        // A FIN that has come ended the flow already.
        if flow.input.take().is_some_and(|input| !input.receiver.ended()) {
            flow.reset = Some(reason);
            self.due.insert(stream);
        }
    }

    /// Bytes of messages that the host has not acknowledged.
    pub fn control_kept(&mut self) -> usize {
        self.sender(CONTROL).map_or(0, |sender| sender.kept())
    }

    pub fn send_message(&mut self, text: &[u8]) {
        if self.control_kept() + text.len() > CONTROL_KEPT_BYTES {
            let mut events = Vec::new();
            self.refuse(Rule::Overflow, &mut events);
            self.instance = None;
            self.restart_control();
            return;
        }
        let length = (text.len() as u32).to_le_bytes();
        if let Some(sender) = self.sender(CONTROL) {
            sender.write(&length);
            sender.write(text);
        }
    }

    /// True when the host has acknowledged every message.
    pub fn control_is_drained(&mut self) -> bool {
        self.control_kept() == 0
    }

    // -- frames out -----------------------------------------------------------------------------------------------

    fn fill(&mut self) {
        let Some(nonce) = self.nonce else { return };
        let mut bytes = Vec::new();
        for stream in std::mem::take(&mut self.due) {
            self.lazy.remove(&stream);
            let Some(flow) = self.flows.get_mut(&stream) else { continue };
            if let Some(input) = &flow.input {
                let limit = input.receiver.limit().max(input.receiver.next()).to_le_bytes();
                encode(&mut bytes, Kind::Ack, 0, stream, input.receiver.next(), &limit, nonce);
            }
            if let Some(reason) = flow.reset {
                encode(&mut bytes, Kind::Reset, 0, stream, 0, reason.as_bytes(), nonce);
            }
        }
        while self.ready.len() + bytes.len() < READY_BYTES {
            let Some(stream) = self.next_sendable() else { break };
            let Some(sender) = self.sender(stream) else { break };
            let Some(piece) = sender.sendable() else { break };
            let flags = if piece.fin { FIN } else { 0 };
            encode(&mut bytes, Kind::Data, flags, stream, piece.offset, sender.piece_bytes(piece), nonce);
            sender.mark_sent(piece);
        }
        self.ready.push(&bytes);
    }

    /// Control first, then each stream in turn.
    fn next_sendable(&mut self) -> Option<u32> {
        let can = |(_, flow): &(&u32, &Flow)| flow.output.as_ref().is_some_and(|s| s.sendable().is_some());
        if self.flows.get(&CONTROL).is_some_and(|flow| can(&(&CONTROL, flow))) {
            return Some(CONTROL);
        }
        let after = self.flows.range(self.last.saturating_add(1).max(1)..).find(can);
        let found = after.or_else(|| self.flows.range(1..).find(can)).map(|(&stream, _)| stream)?;
        self.last = found;
        Some(found)
    }
}

impl Input {
    fn new() -> Self {
        Input { receiver: Receiver::new(0, INPUT_WINDOW_BYTES), queue: Queue::default(), taken: 0 }
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
