//! The shared vectors of tests/vectors/frames.json, and a small deterministic fuzz.

use super::*;
use crate::error::Error;
use serde_json::Value;

pub fn vectors(name: &str) -> Value {
    let path = format!("{}/../tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

/// `[[hex, count], …]` as bytes.
fn expand(pairs: &Value) -> Vec<u8> {
    let pair = |p: &Value| unhex(p[0].as_str().unwrap()).repeat(p[1].as_u64().unwrap() as usize);
    pairs.as_array().unwrap().iter().flat_map(pair).collect()
}

fn feed(parser: &mut Parser, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let room = parser.room();
        let n = room.len().min(rest.len());
        room[..n].copy_from_slice(&rest[..n]);
        parser.filled(n);
        rest = &rest[n..];
    }
}

fn in_step(nonce: u32) -> Parser {
    let mut parser = Parser::default();
    parser.in_step(nonce);
    parser
}

/// xorshift: the same numbers on every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

#[test]
fn valid_frames_are_decoded() {
    let all = vectors("frames");
    let nonce = all["nonce"].as_u64().unwrap() as u32;
    let mut seen = 0;
    for vector in all["valid"].as_array().unwrap().iter().filter(|v| v["to"] != "host") {
        seen += 1;
        let mut parser = in_step(nonce);
        feed(&mut parser, &expand(&vector["bytes"]));
        let want = &vector["frame"];
        let payload = expand(&want["payload"]);
        let (stream, offset) = (want["stream"].as_u64().unwrap() as u32, want["offset"].as_u64().unwrap());
        let name = vector["name"].as_str().unwrap();
        match parser.next_frame().unwrap().unwrap_or_else(|| panic!("{name}: no frame")) {
            Frame::Data { stream: s, offset: o, fin, bytes } => {
                assert_eq!((s, o, u64::from(fin)), (stream, offset, want["flags"].as_u64().unwrap()), "{name}");
                assert_eq!(bytes, payload, "{name}");
            }
            Frame::Ack { stream: s, offset: o, limit } => {
                assert_eq!((s, o, limit.to_le_bytes().to_vec()), (stream, offset, payload), "{name}");
            }
            Frame::Reset { stream: s, reason } => {
                assert_eq!((s, reason.as_bytes()), (stream, payload.as_slice()), "{name}")
            }
            Frame::Bye { reason } => assert_eq!(reason.as_bytes(), payload, "{name}"),
            Frame::Hello(hello) => {
                assert_eq!(u64::from(hello.nonce), want["nonce"].as_u64().unwrap(), "{name}");
                assert_eq!(hello.instance, all["hello"]["instance"].as_str().unwrap(), "{name}");
                assert_eq!(hello.echo, all["hello"]["echo"].as_str().unwrap(), "{name}");
            }
        }
        assert_eq!(parser.next_frame(), Ok(None), "{name}: something is left");
    }
    assert!(seen > 10);
}

#[test]
fn frames_that_break_a_rule_are_refused_by_its_name() {
    let all = vectors("frames");
    let nonce = all["nonce"].as_u64().unwrap() as u32;
    for vector in all["invalid"].as_array().unwrap().iter().filter(|v| v["to"] != "host") {
        let mut parser = in_step(nonce);
        feed(&mut parser, &expand(&vector["bytes"]));
        let got = parser.next_frame().map(|_| "a frame").map_err(Rule::name);
        assert_eq!(got, Err(vector["rule"].as_str().unwrap()), "{}", vector["name"]);
    }
}

#[test]
fn a_hello_is_found_among_left_overs() {
    let all = vectors("frames");
    let nonce = all["nonce"].as_u64().unwrap() as u32;
    for vector in all["resync"].as_array().unwrap().iter().filter(|v| v["to"] == "agent") {
        let name = vector["name"].as_str().unwrap();
        let bytes = expand(&vector["bytes"]);
        for step in [bytes.len(), 1, 997] {
            let mut parser = Parser::default();
            if vector["in_step"] == true {
                parser.in_step(nonce);
            }
            let mut found = Vec::new();
            for chunk in bytes.chunks(step) {
                feed(&mut parser, chunk);
                if found.is_empty() {
                    loop {
                        match parser.next_frame() {
                            Ok(Some(Frame::Hello(hello))) => {
                                found.push(hello.nonce);
                                break;
                            }
                            Ok(None) => break,
                            Ok(Some(other)) => panic!("{name}: {other:?}"),
                            Err(_) => {}
                        }
                    }
                }
            }
            assert_eq!(found, [all["hello"]["nonce"].as_u64().unwrap() as u32], "{name}, steps of {step}");
            assert_eq!(parser.pending(), unhex(vector["rest"].as_str().unwrap()), "{name}, steps of {step}");
        }
    }
}

#[test]
fn mutated_frames_never_panic_and_never_stall() {
    let all = vectors("frames");
    let nonce = all["nonce"].as_u64().unwrap() as u32;
    let seeds: Vec<Vec<u8>> = ["valid", "invalid", "resync"]
        .iter()
        .flat_map(|key| all[*key].as_array().unwrap().iter().map(|v| expand(&v["bytes"])))
        .filter(|bytes| bytes.len() < 4_000)
        .collect();
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut parser = in_step(nonce);
    for _ in 0..20_000 {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..random.below(4) {
            let at = random.below(bytes.len());
            match random.below(3) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, random.next() as u8),
            }
        }
        feed(&mut parser, &bytes);
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps < 10_000, "the parser goes on for ever");
            match parser.next_frame() {
                Ok(None) => break,
                Ok(Some(_)) => {}
                Err(_) if random.below(2) == 0 => parser.in_step(nonce),
                Err(_) => {}
            }
        }
        assert!(!parser.room().is_empty());
    }
}

#[test]
fn errors_have_the_protocols_form() {
    let text = serde_json::to_string(&Error::NotFound("no such thing".into())).unwrap();
    assert_eq!(text, r#"{"kind":"NotFound","message":"no such thing"}"#);
}
