//! Route netlink, as far as cards need it.
//! Source: rtnetlink(7), netlink(7), linux/rtnetlink.h, linux/if_link.h.

use crate::sys;
use std::io;
use std::os::fd::OwnedFd;

const HEADER_BYTES: usize = 16;
const LINK_BODY_BYTES: usize = 16;
/// What one read gives at most: the kernel fills up to 32 KiB for a dump.
const ANSWER_BYTES: usize = 32 * 1024;
/// linux/rtnetlink.h: an answer without counters, which nobody here wants.
const SKIP_STATISTICS: u32 = 1 << 3;
const ETHERNET: u16 = 1;

/// A request that is being put together; `Socket` numbers and sends it.
pub struct Message(Vec<u8>);

impl Message {
    pub fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(body);
        Message(bytes)
    }

    /// About the interface `index`: `flags` among `change` are set, and what the attributes name.
    pub fn link(index: u32, flags: u32, change: u32) -> Self {
        Message::new(libc::RTM_SETLINK, 0, &link_body(index, flags, change))
    }

    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        while self.0.len() % 4 != 0 {
            self.0.push(0);
        }
        self
    }

    /// An interface's name; with `%d` in it the kernel puts the first number that is free.
    pub fn name(self, name: &str) -> Self {
        self.attribute(libc::IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat())
    }

    fn finished(mut self, extra: u16, sequence: u32) -> Vec<u8> {
        let length = (self.0.len() as u32).to_ne_bytes();
        self.0[..4].copy_from_slice(&length);
        let flags = u16::from_ne_bytes([self.0[6], self.0[7]]) | extra;
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// An `ifinfomsg`.
fn link_body(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend_from_slice(&index.to_ne_bytes());
    body.extend_from_slice(&flags.to_ne_bytes());
    body.extend_from_slice(&change.to_ne_bytes());
    body
}

/// A network card: an Ethernet device that is no software's (bridge, veth, VLAN...).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    pub index: u32,
    pub name: String,
    /// As the kernel writes it: `02:00:00:00:00:01`.
    pub mac: String,
    pub up: bool,
}

pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    answer: Vec<u8>,
}

impl Socket {
    pub fn open() -> io::Result<Self> {
        Ok(Socket { fd: sys::route_socket()?, sequence: 0, answer: vec![0; ANSWER_BYTES] })
    }

    /// Has the kernel do it, and waits until it has.
    pub fn request(&mut self, message: Message) -> io::Result<()> {
        self.send(message, libc::NLM_F_ACK as u16)?;
        self.answers(|_, _| {})
    }

    /// The cards of this namespace, in the order in which the kernel found them.
    pub fn cards(&mut self) -> io::Result<Vec<Card>> {
        let all = Message::new(libc::RTM_GETLINK, 0, &link_body(0, 0, 0))
            .attribute(libc::IFLA_EXT_MASK, &SKIP_STATISTICS.to_ne_bytes());
        self.send(all, libc::NLM_F_DUMP as u16)?;
        let mut cards = Vec::new();
        self.answers(|kind, body| {
            if kind == libc::RTM_NEWLINK {
                cards.extend(card(body));
            }
        })?;
        cards.sort_by_key(|card| card.index);
        Ok(cards)
    }

    fn send(&mut self, message: Message, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        sys::write(&self.fd, &message.finished(flags, self.sequence)).map(|_| ())
    }

    /// Everything that comes until the request is done. What is left of an earlier request that was given up is passed over.
    fn answers(&mut self, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        loop {
            let n = sys::read(&self.fd, &mut self.answer)?;
            let mut rest = &self.answer[..n];
            if rest.len() < HEADER_BYTES {
                return Err(io::Error::from_raw_os_error(libc::EBADMSG));
            }
            while let Some((kind, sequence, body)) = next_message(&mut rest) {
                if sequence != self.sequence {
                    continue;
                }
                match i32::from(kind) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        let code = body.first_chunk::<4>().map_or(0, |raw| i32::from_ne_bytes(*raw));
                        return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    _ => each(kind, body),
                }
            }
        }
    }
}

/// Takes the first message off `rest`: its kind, sequence number and body.
fn next_message<'a>(rest: &mut &'a [u8]) -> Option<(u16, u32, &'a [u8])> {
    let head = rest.first_chunk::<HEADER_BYTES>()?;
    let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let kind = u16::from_ne_bytes([head[4], head[5]]);
    let sequence = u32::from_ne_bytes([head[8], head[9], head[10], head[11]]);
    let body = rest.get(HEADER_BYTES..length)?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, sequence, body))
}

fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let head = rest.first_chunk::<4>()?;
        let length = u16::from_ne_bytes([head[0], head[1]]) as usize;
        // The upper bits say how to read the value.
        let kind = u16::from_ne_bytes([head[2], head[3]]) & 0x3fff;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn card(body: &[u8]) -> Option<Card> {
    let head = body.first_chunk::<LINK_BODY_BYTES>()?;
    if u16::from_ne_bytes([head[2], head[3]]) != ETHERNET {
        return None;
    }
    let mut card = Card {
        index: u32::from_ne_bytes([head[4], head[5], head[6], head[7]]),
        name: String::new(),
        mac: String::new(),
        up: u32::from_ne_bytes([head[8], head[9], head[10], head[11]]) & libc::IFF_UP as u32 != 0,
    };
    for (kind, value) in attributes(&body[LINK_BODY_BYTES..]) {
        match kind {
            libc::IFLA_IFNAME => card.name = String::from_utf8_lossy(value).trim_end_matches('\0').to_string(),
            libc::IFLA_ADDRESS => {
                card.mac = value.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
            }
            libc::IFLA_LINKINFO if attributes(value).any(|(kind, _)| kind == libc::IFLA_INFO_KIND) => return None,
            _ => {}
        }
    }
    Some(card)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(kind: u16, index: u32, flags: u32) -> Vec<u8> {
        let mut body = link_body(index, flags, 0);
        body[2..4].copy_from_slice(&kind.to_ne_bytes());
        body
    }

    fn answer(message: Message) -> Vec<u8> {
        message.finished(0, 7)
    }

    #[test]
    fn attributes_are_padded_to_four_bytes() {
        let message = Message::link(7, 1, 1).name("eth0");
        assert_eq!(message.0.len(), 16 + 16 + 12);
        assert_eq!(&message.0[32..36], &[9, 0, 3, 0]);
    }

    #[test]
    fn a_card_is_told_from_software_and_from_the_loopback() {
        let new =
            |body: &[u8]| Message::new(libc::RTM_NEWLINK, 0, body).name("eth0").attribute(libc::IFLA_ADDRESS, &[2; 6]);
        let of = |message: Message| card(&message.0[HEADER_BYTES..]);
        let found = of(new(&link(ETHERNET, 3, libc::IFF_UP as u32)));
        assert_eq!(found, Some(Card { index: 3, name: "eth0".into(), mac: "02:02:02:02:02:02".into(), up: true }));
        assert_eq!(of(new(&link(772, 1, 0))), None);
        // { IFLA_INFO_KIND: "veth" }, and a card that is a bridge's port: { IFLA_INFO_SLAVE_KIND: "bridge" }.
        let veth = new(&link(ETHERNET, 4, 0)).attribute(libc::IFLA_LINKINFO, b"\x09\0\x01\0veth\0\0\0\0");
        assert_eq!(of(veth), None);
        let port = new(&link(ETHERNET, 5, 0)).attribute(libc::IFLA_LINKINFO, b"\x0b\0\x04\0bridge\0\0");
        assert_eq!(of(port).map(|card| card.index), Some(5));
    }

    #[test]
    fn messages_follow_each_other_and_a_cut_one_is_none() {
        let both = [answer(Message::new(16, 0, &[1; 5])), vec![0; 3], answer(Message::new(17, 0, &[]))].concat();
        let mut rest = both.as_slice();
        assert_eq!(next_message(&mut rest), Some((16, 7, [1; 5].as_slice())));
        assert_eq!(next_message(&mut rest), Some((17, 7, [].as_slice())));
        assert_eq!(next_message(&mut rest), None);
        let mut cut = &both[..20];
        assert_eq!(next_message(&mut cut), None);
    }

    #[test]
    fn attributes_of_any_length_end_where_the_bytes_do() {
        for length in 0..12 {
            let mut bytes = vec![0xff; length];
            if length > 1 {
                bytes[0] = length as u8;
                bytes[1] = 0;
            }
            assert!(attributes(&bytes).count() <= 1, "{length}");
        }
        // A length below its own header's would go round for ever.
        assert_eq!(attributes(&[0; 64]).count(), 0);
    }
}
