//! Frames of docs/agent-protocol.md section 2: encoding, and a parser that is in or out of step. Pure: no I/O.
//! `link` owns the parser; the shared vectors in tests/vectors/frames.json test it.

use serde::Deserialize;

pub const HEADER_BYTES: usize = 20;
pub const TRAILER_BYTES: usize = 4;
pub const MAX_PAYLOAD_BYTES: usize = 65_536;
const MAX_REASON_BYTES: usize = 1_024;
pub const FIN: u8 = 1;
pub const MAGIC: &[u8; 16] = b"HYPER-AGENT-v1\r\n";
/// Room for one whole frame behind another, so that a read never stalls on a full buffer.
const BUFFER_BYTES: usize = 4 * (MAX_PAYLOAD_BYTES + HEADER_BYTES + TRAILER_BYTES);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Hello = 1,
    Welcome = 2,
    Data = 3,
    Ack = 4,
    Reset = 5,
    Bye = 6,
}

/// The rules a receiver checks; the names are those of the shared vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    UnknownType,
    UnknownFlag,
    ReservedNotZero,
    TooLong,
    WrongLength,
    WrongStream,
    WrongOffset,
    LimitBelowOffset,
    NotUtf8,
    WrongTrailer,
    BadHello,
    Gap,
    AboveLimit,
    AfterFin,
    AckAboveSent,
    WentBack,
    BadMessage,
    Overflow,
}

impl Rule {
    pub fn name(self) -> &'static str {
        match self {
            Rule::UnknownType => "unknown_type",
            Rule::UnknownFlag => "unknown_flag",
            Rule::ReservedNotZero => "reserved_not_zero",
            Rule::TooLong => "too_long",
            Rule::WrongLength => "wrong_length",
            Rule::WrongStream => "wrong_stream",
            Rule::WrongOffset => "wrong_offset",
            Rule::LimitBelowOffset => "limit_below_offset",
            Rule::NotUtf8 => "not_utf8",
            Rule::WrongTrailer => "wrong_trailer",
            Rule::BadHello => "bad_hello",
            Rule::Gap => "gap",
            Rule::AboveLimit => "above_limit",
            Rule::AfterFin => "after_fin",
            Rule::AckAboveSent => "ack_above_sent",
            Rule::WentBack => "went_back",
            Rule::BadMessage => "bad_message",
            Rule::Overflow => "overflow",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub flags: u8,
    pub length: usize,
    pub stream: u32,
    pub offset: u64,
}

/// What a HELLO says, section 3.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Hello {
    pub versions: Vec<u32>,
    pub instance: String,
    pub echo: String,
    pub nonce: u32,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    Hello(Hello),
    Data { stream: u32, offset: u64, fin: bool, bytes: &'a [u8] },
    Ack { stream: u32, offset: u64, limit: u64 },
    Reset { stream: u32, reason: &'a str },
    Bye { reason: &'a str },
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

/// Decodes and checks the first 20 bytes of `bytes` as what the host may send.
pub fn check_header(bytes: &[u8]) -> Result<Header, Rule> {
    let kind = match bytes[0] {
        1 => Kind::Hello,
        3 => Kind::Data,
        4 => Kind::Ack,
        5 => Kind::Reset,
        6 => Kind::Bye,
        _ => return Err(Rule::UnknownType),
    };
    let flags = bytes[1];
    if flags & !(if kind == Kind::Data { FIN } else { 0 }) != 0 {
        return Err(Rule::UnknownFlag);
    }
    if bytes[2] != 0 || bytes[3] != 0 {
        return Err(Rule::ReservedNotZero);
    }
    let length = u32_at(bytes, 4) as usize;
    let stream = u32_at(bytes, 8);
    let offset = u64_at(bytes, 12);
    if length > MAX_PAYLOAD_BYTES {
        return Err(Rule::TooLong);
    }
    let length_fits = match kind {
        Kind::Hello => length > MAGIC.len(),
        Kind::Ack => length == 8,
        Kind::Reset | Kind::Bye => length <= MAX_REASON_BYTES,
        _ => true,
    };
    if !length_fits {
        return Err(Rule::WrongLength);
    }
    let stream_fits = match kind {
        Kind::Hello | Kind::Bye => stream == 0,
        Kind::Reset => stream != 0,
        _ => true,
    };
    if !stream_fits {
        return Err(Rule::WrongStream);
    }
    let offset_fits = match kind {
        Kind::Data => offset.checked_add(length as u64 + u64::from(flags & FIN)).is_some(),
        Kind::Ack => true,
        _ => offset == 0,
    };
    if !offset_fits {
        return Err(Rule::WrongOffset);
    }
    Ok(Header { kind, flags, length, stream, offset })
}

/// Appends one frame to `out`. The payload must not be longer than `MAX_PAYLOAD_BYTES`.
pub fn encode(out: &mut Vec<u8>, kind: Kind, flags: u8, stream: u32, offset: u64, payload: &[u8], nonce: u32) {
    debug_assert!(payload.len() <= MAX_PAYLOAD_BYTES);
    out.extend_from_slice(&[kind as u8, flags, 0, 0]);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&stream.to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(&nonce.to_le_bytes());
}

/// Takes bytes as they come and gives whole, checked frames. Out of step it gives nothing but a HELLO.
pub struct Parser {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    nonce: Option<u32>,
}

impl Default for Parser {
    fn default() -> Self {
        Parser { buffer: vec![0; BUFFER_BYTES], start: 0, end: 0, nonce: None }
    }
}

impl Parser {
    /// Where the next bytes go: never empty, if every frame was taken before.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.buffer.len() - self.end < BUFFER_BYTES / 4 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.buffer[self.end..]
    }

    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.buffer.len());
    }

    /// Forgets the beginning of a frame: its rest will not come.
    pub fn cut(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    /// The next frame wants `nonce` as its trailer.
    pub fn in_step(&mut self, nonce: u32) {
        self.nonce = Some(nonce);
    }

    /// The connection is over; what is in the buffer is searched for a HELLO.
    pub fn out_of_step(&mut self) {
        self.nonce = None;
    }

    #[cfg(test)]
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The next whole frame, or `None` until more bytes come. After an error the parser is out of step, and looks for a
    /// HELLO from the second byte of the broken frame on: its length may be a lie that covers one.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, Rule> {
        let Some(nonce) = self.nonce else { return Ok(self.seek_hello().map(Frame::Hello)) };
        while self.start < self.end && self.buffer[self.start] == 0 {
            self.start += 1;
        }
        let held = self.end - self.start;
        if held < HEADER_BYTES {
            return Ok(None);
        }
        let at = self.start;
        let header = match check_header(&self.buffer[at..]) {
            Ok(header) => header,
            Err(rule) => return Err(self.broken(rule)),
        };
        let total = HEADER_BYTES + header.length + TRAILER_BYTES;
        if held < total {
            return Ok(None);
        }
        let trailer = u32_at(&self.buffer, at + total - TRAILER_BYTES);
        if header.kind == Kind::Hello {
            let hello = decode_hello(&self.buffer[at + HEADER_BYTES..at + total - TRAILER_BYTES], trailer);
            return match hello {
                Some(hello) => {
                    self.start += total;
                    Ok(Some(Frame::Hello(hello)))
                }
                None => Err(self.broken(Rule::BadHello)),
            };
        }
        if trailer != nonce {
            return Err(self.broken(Rule::WrongTrailer));
        }
        if let Err(rule) = decode(&header, &self.buffer[at + HEADER_BYTES..at + total - TRAILER_BYTES]) {
            return Err(self.broken(rule));
        }
        self.start += total;
        decode(&header, &self.buffer[at + HEADER_BYTES..at + total - TRAILER_BYTES]).map(Some)
    }

    fn broken(&mut self, rule: Rule) -> Rule {
        self.nonce = None;
        self.start += 1;
        rule
    }

    fn seek_hello(&mut self) -> Option<Hello> {
        loop {
            let held = &self.buffer[self.start..self.end];
            let Some(at) = held.windows(MAGIC.len()).position(|w| w == MAGIC) else {
                // A header and the beginning of the magic may be there already.
                let keep = (HEADER_BYTES + MAGIC.len() - 1).min(held.len());
                self.start = self.end - keep;
                return None;
            };
            let candidate = at
                .checked_sub(HEADER_BYTES)
                .filter(|&head| check_header(&held[head..]).is_ok_and(|header| header.kind == Kind::Hello));
            let Some(head) = candidate else {
                self.start += at + 1;
                continue;
            };
            let length = u32_at(held, head + 4) as usize;
            let total = HEADER_BYTES + length + TRAILER_BYTES;
            if held.len() < head + total {
                self.start += head;
                return None;
            }
            let payload = &held[head + HEADER_BYTES..head + HEADER_BYTES + length];
            if let Some(hello) = decode_hello(payload, u32_at(held, head + HEADER_BYTES + length)) {
                self.start += head + total;
                return Some(hello);
            }
            self.start += at + 1;
        }
    }
}

fn decode<'a>(header: &Header, payload: &'a [u8]) -> Result<Frame<'a>, Rule> {
    let (stream, offset) = (header.stream, header.offset);
    match header.kind {
        Kind::Data => Ok(Frame::Data { stream, offset, fin: header.flags & FIN != 0, bytes: payload }),
        Kind::Ack => {
            let limit = u64_at(payload, 0);
            if limit < offset {
                return Err(Rule::LimitBelowOffset);
            }
            Ok(Frame::Ack { stream, offset, limit })
        }
        Kind::Reset => {
            std::str::from_utf8(payload).map(|reason| Frame::Reset { stream, reason }).map_err(|_| Rule::NotUtf8)
        }
        Kind::Bye => std::str::from_utf8(payload).map(|reason| Frame::Bye { reason }).map_err(|_| Rule::NotUtf8),
        Kind::Hello | Kind::Welcome => Err(Rule::UnknownType),
    }
}

fn is_hex32(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn decode_hello(payload: &[u8], trailer: u32) -> Option<Hello> {
    let text = payload.strip_prefix(MAGIC.as_slice())?;
    let hello: Hello = serde_json::from_slice(text).ok()?;
    let good = hello.nonce == trailer && trailer != 0 && is_hex32(&hello.instance) && is_hex32(&hello.echo);
    good.then_some(hello)
}

#[cfg(test)]
#[path = "frames_tests.rs"]
pub mod tests;
