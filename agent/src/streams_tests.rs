//! The shared vectors of tests/vectors/streams.json.

use super::*;
use crate::frames::tests::vectors;
use serde_json::Value;

#[test]
fn receivers_take_and_refuse_as_the_vectors_say() {
    for vector in vectors("streams")["receiver"].as_array().unwrap() {
        let number = |v: &Value| v.as_u64().unwrap();
        let mut receiver = Receiver::new(number(&vector["next"]), number(&vector["limit"]));
        for step in vector["steps"].as_array().unwrap() {
            let data = &step["data"];
            let text = data["text"].as_str().unwrap();
            let got = receiver.accept(number(&data["offset"]), text.as_bytes(), data["fin"] == true);
            let what = format!("{}: {step}", vector["name"]);
            match step["error"].as_str() {
                Some(rule) => assert_eq!(got.map_err(Rule::name), Err(rule), "{what}"),
                None => {
                    assert_eq!(
                        got.map(|b| std::str::from_utf8(b).unwrap()),
                        Ok(step["takes"].as_str().unwrap()),
                        "{what}"
                    );
                    assert_eq!(receiver.next(), number(&step["next"]), "{what}");
                }
            }
        }
    }
}

/// Everything that may be sent now, neighbouring frames joined.
fn send_all(sender: &mut Sender) -> Vec<(u64, String, bool)> {
    let mut out: Vec<(u64, String, bool)> = Vec::new();
    while let Some(piece) = sender.sendable() {
        let text = String::from_utf8(sender.piece_bytes(piece).to_vec()).unwrap();
        match out.last_mut() {
            Some(last) if last.0 + last.1.len() as u64 == piece.offset => {
                last.1 += &text;
                last.2 |= piece.fin;
            }
            _ => out.push((piece.offset, text, piece.fin)),
        }
        sender.mark_sent(piece);
    }
    out
}

#[test]
fn senders_send_and_keep_as_the_vectors_say() {
    for vector in vectors("streams")["sender"].as_array().unwrap() {
        let mut sender = Sender::default();
        for step in vector["steps"].as_array().unwrap() {
            let what = format!("{}: {step}", vector["name"]);
            if let Some(text) = step["write"].as_str() {
                sender.write(text.as_bytes());
            }
            if step["finish"] == true {
                sender.finish();
            }
            if step["disconnect"] == true {
                sender.disconnect();
            }
            if step["reset"].is_string() {
                sender.abandon();
            }
            if let Some(ack) = step["ack"].as_object() {
                let got = sender.acknowledge(ack["offset"].as_u64().unwrap(), ack["limit"].as_u64().unwrap());
                assert_eq!(got.map_err(Rule::name).err(), step["error"].as_str(), "{what}");
                if got.is_err() {
                    continue;
                }
            }
            let want: Vec<(u64, String, bool)> = match step["sends"].as_array() {
                Some(list) => list
                    .iter()
                    .map(|s| (s["offset"].as_u64().unwrap(), s["text"].as_str().unwrap().into(), s["fin"] == true))
                    .collect(),
                None => vec![],
            };
            assert_eq!(send_all(&mut sender), want, "{what}");
            if let Some(keeps) = step["keeps"].as_u64() {
                assert_eq!(sender.kept() as u64, keeps, "{what}");
            }
            if step["over"] == true {
                assert!(sender.is_over(), "{what}");
            }
        }
    }
}

#[test]
fn a_queue_gives_back_what_was_pushed() {
    let mut queue = Queue::default();
    let (mut pushed, mut taken) = (0u32, 0u32);
    for round in 0..1_000usize {
        let bytes: Vec<u8> = (0..round % 97)
            .map(|_| {
                pushed += 1;
                pushed as u8
            })
            .collect();
        queue.push(&bytes);
        let count = (round * 7 % 61).min(queue.len());
        for &byte in &queue.bytes()[..count] {
            taken += 1;
            assert_eq!(byte, taken as u8);
        }
        queue.take(count);
        assert_eq!(queue.len(), (pushed - taken) as usize);
    }
}
