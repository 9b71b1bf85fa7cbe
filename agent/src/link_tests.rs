//! The link against a small host over in-memory pipes that lose what is in flight, at random but reproducible places.

use super::*;
use crate::frames::tests::Random;
use crate::frames::{MAGIC, MAX_PAYLOAD_BYTES};

/// Just enough of a host: frames out, and a reader that checks every position.
struct Host {
    nonce: u32,
    instance: u32,
    out: Vec<u8>,
    held: Vec<u8>,
    welcomed: bool,
    resumed: bool,
    /// Taken of each output stream, and whether it has ended.
    outputs: BTreeMap<u32, (Vec<u8>, bool)>,
    inputs: BTreeMap<u32, Sender>,
    control: Sender,
    control_next: u64,
    messages: Vec<u8>,
    resets: Vec<u32>,
    byes: Vec<String>,
    connections: u32,
}

impl Host {
    fn new() -> Self {
        Host {
            nonce: 0,
            instance: 1,
            out: vec![],
            held: vec![],
            welcomed: false,
            resumed: false,
            outputs: BTreeMap::new(),
            inputs: BTreeMap::new(),
            control: Sender::default(),
            control_next: 0,
            messages: vec![],
            resets: vec![],
            byes: vec![],
            connections: 0,
        }
    }

    fn connect(&mut self) {
        self.connections += 1;
        self.nonce = 0x0100_0000 + self.connections;
        self.welcomed = false;
        self.held.clear();
        self.out = if self.connections > 1 { vec![0; 66_000] } else { vec![] };
        let text = format!(
            r#"{{"versions":[1],"instance":"{:032x}","echo":"{:032x}","nonce":{}}}"#,
            self.instance, self.nonce, self.nonce
        );
        let payload = [MAGIC.as_slice(), text.as_bytes()].concat();
        encode(&mut self.out, Kind::Hello, 0, 0, 0, &payload, self.nonce);
        for sender in self.inputs.values_mut().chain([&mut self.control]) {
            sender.disconnect();
        }
    }

    fn restart(&mut self) {
        self.instance += 1;
        self.control = Sender::default();
        self.control_next = 0;
        self.messages.clear();
    }

    fn ack(&mut self, stream: u32, next: u64, window: u64) {
        encode(&mut self.out, Kind::Ack, 0, stream, next, &(next + window).to_le_bytes(), self.nonce);
    }

    fn ack_output(&mut self, stream: u32) {
        let (bytes, ended) = &self.outputs[&stream];
        let next = bytes.len() as u64 + u64::from(*ended);
        self.ack(stream, next, 100_000);
    }

    fn send(&mut self) {
        let (out, nonce) = (&mut self.out, self.nonce);
        for (&stream, sender) in self.inputs.iter_mut().chain([(&CONTROL, &mut self.control)]) {
            while let Some(piece) = sender.sendable() {
                let flags = u8::from(piece.fin);
                encode(out, Kind::Data, flags, stream, piece.offset, sender.piece_bytes(piece), nonce);
                sender.mark_sent(piece);
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        if !self.welcomed {
            let echo = u128::from(self.nonce).to_be_bytes();
            let Some(at) = self.held.windows(16).position(|w| w == echo) else { return };
            self.held.drain(..at - 20);
        }
        while self.held.len() >= 24 {
            let word = |at: usize| u32::from_le_bytes(self.held[at..at + 4].try_into().unwrap());
            let (kind, flags, length, stream) = (self.held[0], self.held[1], word(4) as usize, word(8));
            assert!(length <= MAX_PAYLOAD_BYTES);
            if self.held.len() < 24 + length {
                return;
            }
            let offset = u64::from_le_bytes(self.held[12..20].try_into().unwrap());
            assert_eq!(word(20 + length), self.nonce, "a frame of another connection behind the WELCOME");
            let payload = self.held[20..20 + length].to_vec();
            self.held.drain(..24 + length);
            match kind {
                2 => {
                    self.welcomed = true;
                    self.resumed = String::from_utf8_lossy(&payload[16..]).contains(r#""resumed":true"#);
                    self.ack(CONTROL, self.control_next, 1 << 20);
                    for stream in self.outputs.keys().copied().collect::<Vec<_>>() {
                        self.ack_output(stream);
                    }
                }
                3 if stream == CONTROL => {
                    assert!(offset <= self.control_next, "gap in the control stream");
                    let fresh = &payload[(self.control_next - offset) as usize..];
                    self.messages.extend_from_slice(fresh);
                    self.control_next += fresh.len() as u64;
                    self.ack(CONTROL, self.control_next, 1 << 20);
                }
                3 => {
                    let Some((taken, ended)) = self.outputs.get_mut(&stream) else { continue };
                    assert!(offset <= taken.len() as u64, "gap in stream {stream}");
                    let known = (taken.len() - offset as usize).min(payload.len());
                    assert!(!*ended || known == payload.len(), "bytes after the end");
                    taken.extend_from_slice(&payload[known..]);
                    *ended |= flags & 1 == 1;
                    self.ack_output(stream);
                }
                4 => {
                    let limit = u64::from_le_bytes(payload.as_slice().try_into().unwrap());
                    let sender = if stream == CONTROL { Some(&mut self.control) } else { self.inputs.get_mut(&stream) };
                    if let Some(sender) = sender {
                        sender.acknowledge(offset, limit).unwrap();
                    }
                }
                5 => self.resets.push(stream),
                6 => self.byes.push(String::from_utf8(payload).unwrap()),
                other => panic!("frame type {other}"),
            }
        }
    }
}

fn feed(link: &mut Link, bytes: &[u8], events: &mut Vec<Event>) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let room = link.room();
        let n = room.len().min(rest.len());
        room[..n].copy_from_slice(&rest[..n]);
        link.received(n, events);
        rest = &rest[n..];
    }
}

/// Moves at most `limit` bytes each way; what the agent's side made of it is in `events`.
fn exchange(host: &mut Host, link: &mut Link, limit: usize, events: &mut Vec<Event>) {
    host.send();
    let n = host.out.len().min(limit);
    let bytes: Vec<u8> = host.out.drain(..n).collect();
    feed(link, &bytes, events);
    link.settle();
    let out = link.output();
    let n = out.len().min(limit);
    let bytes = out[..n].to_vec();
    link.wrote(n);
    host.take(&bytes);
}

fn connected() -> (Host, Link) {
    let (mut host, mut link) = (Host::new(), Link::new("boot".into()));
    host.connect();
    let mut events = vec![];
    for _ in 0..4 {
        exchange(&mut host, &mut link, usize::MAX, &mut events);
    }
    assert!(host.welcomed && !host.resumed);
    assert_eq!(events[0], Event::Connected { resumed: false });
    (host, link)
}

#[test]
fn nothing_is_lost_or_doubled_over_random_disconnections() {
    for seed in 1..40u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (mut host, mut link) = connected();
        let streams = [1u32, 2, 7];
        for stream in streams {
            host.outputs.insert(stream, (vec![], false));
            host.inputs.insert(stream, Sender::default());
            assert!(link.open(&[stream], &[stream]));
            host.ack_output(stream);
        }
        let total = 400_000;
        let pattern = |stream: u32, at: usize| (at as u32).wrapping_mul(2_654_435_761).rotate_left(stream) as u8;
        let (mut printed, mut sent, mut read) = ([0usize; 3], [0usize; 3], [(); 3].map(|()| Vec::new()));
        let mut ended = [false; 3];
        let mut steps = 0;
        while host.outputs.values().any(|o| !o.1) || !ended.iter().all(|e| *e) {
            steps += 1;
            assert!(steps < 200_000, "seed {seed}: it does not end");
            for (i, &stream) in streams.iter().enumerate() {
                let n = random.below(30_000).min(total - printed[i]).min(link.output_room(stream, OUTPUT_KEPT_BYTES));
                link.write(stream, &(printed[i]..printed[i] + n).map(|at| pattern(stream, at)).collect::<Vec<_>>());
                printed[i] += n;
                if printed[i] == total {
                    link.finish(stream);
                }
                let sender = host.inputs.get_mut(&stream).unwrap();
                let n = random.below(30_000).min(total - sent[i]);
                sender.write(&(sent[i]..sent[i] + n).map(|at| pattern(stream + 3, at)).collect::<Vec<_>>());
                sent[i] += n;
                if sent[i] == total {
                    sender.finish();
                }
                if let Some((bytes, end)) = link.input(stream) {
                    let n = random.below(50_000).min(bytes.len());
                    read[i].extend_from_slice(&bytes[..n]);
                    ended[i] = end && n == bytes.len();
                    link.input_taken(stream, n);
                }
            }
            let mut events = vec![];
            let limit = 1 + random.below(90_000);
            exchange(&mut host, &mut link, limit, &mut events);
            assert!(!events.iter().any(|e| matches!(e, Event::Closed(_))) || steps > 1, "{events:?}");
            if random.below(25) == 0 {
                // In flight are lost: what the host has not sent yet, and a part of what the agent gave the port.
                let out = link.output().len();
                let swallowed = random.below(out + 1);
                link.wrote(swallowed);
                if random.below(2) == 0 {
                    link.hung_up();
                }
                if random.below(4) == 0 {
                    host.restart();
                }
                host.connect();
            }
        }
        for (i, &stream) in streams.iter().enumerate() {
            assert_eq!(host.outputs[&stream].0.len(), total, "seed {seed}");
            assert!(host.outputs[&stream].0.iter().enumerate().all(|(at, b)| *b == pattern(stream, at)), "seed {seed}");
            assert!(read[i].iter().enumerate().all(|(at, b)| *b == pattern(stream + 3, at)), "seed {seed}");
            assert_eq!(read[i].len(), total, "seed {seed}");
        }
    }
}

/// A restored machine's port tells of its old host's end when the new one has spoken already.
#[test]
fn a_hang_up_told_late_costs_the_new_connection_nothing() {
    let (mut host, mut link) = connected();
    host.restart();
    host.connect();
    let mut events = vec![];
    feed(&mut link, &std::mem::take(&mut host.out), &mut events);
    link.hung_up();
    for _ in 0..3 {
        exchange(&mut host, &mut link, usize::MAX, &mut events);
    }
    assert!(host.welcomed, "the WELCOME went with the old connection");
    link.hung_up();
    host.control.write(b"\x02\0\0\0{}");
    exchange(&mut host, &mut link, usize::MAX, &mut events);
    assert!(events.contains(&Event::Message(b"{}".to_vec())), "{events:?}");
    link.send_message(b"still here");
    for _ in 0..2 {
        exchange(&mut host, &mut link, usize::MAX, &mut events);
    }
    assert!(host.messages.ends_with(b"still here"));
}

#[test]
fn after_a_hang_up_nothing_new_is_sent_until_something_comes() {
    let (mut host, mut link) = connected();
    link.hung_up();
    link.send_message(b"later");
    assert!(link.output().is_empty());
    host.connect();
    for _ in 0..4 {
        exchange(&mut host, &mut link, usize::MAX, &mut vec![]);
    }
    assert!(host.resumed && host.messages.ends_with(b"later"));
}

#[test]
fn a_stalled_stream_does_not_hold_up_another_nor_the_control_stream() {
    let (mut host, mut link) = connected();
    for stream in [1, 2] {
        host.outputs.insert(stream, (vec![], false));
        assert!(link.open(&[stream], &[]));
    }
    host.ack_output(2);
    link.write(1, &[1; 500_000]);
    link.write(2, b"free");
    link.send_message(b"{}");
    for _ in 0..3 {
        exchange(&mut host, &mut link, usize::MAX, &mut vec![]);
    }
    assert_eq!(host.outputs[&2].0, b"free");
    assert!(host.outputs[&1].0.is_empty());
    assert_eq!(host.messages, b"\x02\0\0\0{}");
}

#[test]
fn control_goes_before_output_that_was_there_first() {
    let (mut host, mut link) = connected();
    host.outputs.insert(1, (vec![], false));
    assert!(link.open(&[1], &[]));
    host.ack(1, 0, 1 << 20);
    exchange(&mut host, &mut link, usize::MAX, &mut vec![]);
    link.write(1, &[7; 300_000]);
    link.send_message(b"first");
    let out = link.output();
    assert_eq!(out[8..12], [0, 0, 0, 0], "the first frame is the control stream's");
}

#[test]
fn an_ack_may_come_before_the_stream_is_known() {
    let (mut host, mut link) = connected();
    host.outputs.insert(5, (vec![], false));
    host.ack_output(5);
    exchange(&mut host, &mut link, usize::MAX, &mut vec![]);
    assert!(link.open(&[5], &[]));
    link.write(5, b"here");
    exchange(&mut host, &mut link, usize::MAX, &mut vec![]);
    assert_eq!(host.outputs[&5].0, b"here");
}

#[test]
fn a_stream_number_is_not_given_twice() {
    let (_, mut link) = connected();
    assert!(link.open(&[1, 2], &[1]));
    assert!(!link.open(&[2], &[]));
    assert!(!link.open(&[0], &[]));
}

#[test]
fn another_instance_begins_the_control_stream_again() {
    let (mut host, mut link) = connected();
    link.send_message(b"old");
    let generation = link.generation();
    host.restart();
    host.connect();
    for _ in 0..3 {
        exchange(&mut host, &mut link, usize::MAX, &mut vec![]);
    }
    assert!(!host.resumed && host.messages.is_empty());
    assert_ne!(link.generation(), generation);
    host.connect();
    for _ in 0..3 {
        exchange(&mut host, &mut link, usize::MAX, &mut vec![]);
    }
    assert!(host.resumed);
}

#[test]
fn a_closed_stdin_is_reset_and_a_reset_output_is_thrown_away() {
    let (mut host, mut link) = connected();
    assert!(link.open(&[1], &[1]));
    link.refuse_input(1, "closed");
    host.outputs.insert(1, (vec![], false));
    encode(&mut host.out, Kind::Reset, 0, 1, 0, b"enough", host.nonce);
    let mut events = vec![];
    for _ in 0..2 {
        exchange(&mut host, &mut link, usize::MAX, &mut events);
    }
    assert_eq!(host.resets, [1]);
    assert!(events.contains(&Event::Room(1)));
    for _ in 0..10 {
        assert_eq!(link.output_room(1, OUTPUT_KEPT_BYTES), OUTPUT_KEPT_BYTES);
        link.write(1, &[0; 1_000_000]);
    }
    assert_eq!(link.flows[&1].output.as_ref().map(Sender::kept), Some(0));
}

#[test]
fn what_is_kept_for_a_host_that_does_not_read_is_bounded_also_beyond_the_usual() {
    let (_, mut link) = connected();
    assert!(link.open(&[1], &[]));
    for most in [OUTPUT_KEPT_BYTES, 2 * OUTPUT_KEPT_BYTES] {
        while link.output_room(1, most) > 0 {
            let room = link.output_room(1, most).min(100_000);
            link.write(1, &vec![0; room]);
        }
        assert_eq!(link.flows[&1].output.as_ref().map(Sender::kept), Some(most));
    }
    assert_eq!(link.output_room(1, OUTPUT_KEPT_BYTES), 0);
}

#[test]
fn a_broken_rule_closes_the_connection_and_a_hello_opens_the_next() {
    let (mut host, mut link) = connected();
    assert!(link.open(&[1], &[1]));
    encode(&mut host.out, Kind::Data, 0, 1, 5, b"gap", host.nonce);
    let mut events = vec![];
    for _ in 0..2 {
        exchange(&mut host, &mut link, usize::MAX, &mut events);
    }
    assert_eq!(host.byes, ["gap"]);
    assert!(events.iter().any(|e| matches!(e, Event::Closed(_))));
    host.connect();
    for _ in 0..2 {
        exchange(&mut host, &mut link, usize::MAX, &mut events);
    }
    assert!(host.welcomed && host.resumed);
}

#[test]
fn a_version_that_does_not_fit_is_told() {
    let mut link = Link::new("boot".into());
    let mut bytes = vec![];
    let text = format!(r#"{{"versions":[9],"instance":"{0}","echo":"{0}","nonce":77}}"#, "a".repeat(32));
    encode(&mut bytes, Kind::Hello, 0, 0, 0, &[MAGIC.as_slice(), text.as_bytes()].concat(), 77);
    feed(&mut link, &bytes, &mut vec![]);
    let out = link.output();
    assert_eq!(out[0], Kind::Bye as u8);
    assert!(String::from_utf8_lossy(out).contains("version 1"));
}

#[test]
fn a_host_that_never_reads_its_messages_is_cut_off() {
    let (_, mut link) = connected();
    let message = vec![b'x'; 1 << 20];
    for _ in 0..40 {
        link.send_message(&message);
        assert!(link.control_kept() <= CONTROL_KEPT_BYTES + 8);
    }
}
