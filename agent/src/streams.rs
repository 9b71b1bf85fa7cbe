//! One-way flows of docs/agent-protocol.md sections 2 and 4: what a sender keeps until it is acknowledged, and what a
//! receiver may take. Pure: no I/O. `link` puts them on frames; tests/vectors/streams.json tests them.

use crate::frames::{Rule, MAX_PAYLOAD_BYTES};

/// Bytes with a cheap front: taken bytes are only moved out of the way when they are more than half of the buffer.
#[derive(Debug, Default)]
pub struct Queue {
    data: Vec<u8>,
    head: usize,
}

impl Queue {
    pub fn len(&self) -> usize {
        self.data.len() - self.head
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
    }

    pub fn bytes(&self) -> &[u8] {
        &self.data[self.head..]
    }

    pub fn take(&mut self, count: usize) {
        self.head += count.min(self.len());
        if self.head == self.data.len() {
            self.clear();
        } else if self.head > self.data.len() / 2 {
            self.data.copy_within(self.head.., 0);
            self.data.truncate(self.data.len() - self.head);
            self.head = 0;
        }
    }

    pub fn clear(&mut self) {
        self.data.clear();
        self.head = 0;
        // Idle streams cost nothing; busy ones keep a working set.
        if self.data.capacity() > 4 * MAX_PAYLOAD_BYTES {
            self.data = Vec::new();
        }
    }
}

/// A piece that may be sent now: `bytes` bytes at `offset`, and the FIN behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub offset: u64,
    pub bytes: usize,
    pub fin: bool,
}

#[derive(Debug, Default)]
pub struct Sender {
    kept: Queue,
    /// Position of the first kept byte.
    base: u64,
    /// Position of the next byte to send on this connection.
    next: u64,
    /// One past the highest position ever sent, over all connections; a sent FIN counts.
    high: u64,
    /// The last ACK on this connection: offset and limit.
    credit: Option<(u64, u64)>,
    finished: bool,
    over: bool,
}

impl Sender {
    /// Keeps `bytes` until they are acknowledged; how much it may keep is the caller's to watch.
    pub fn write(&mut self, bytes: &[u8]) {
        if !self.finished && !self.over {
            self.kept.push(bytes);
        }
    }

    pub fn finish(&mut self) {
        self.finished = true;
    }

    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Everything is acknowledged including the FIN, or the reader does not want it.
    pub fn is_over(&self) -> bool {
        self.over
    }

    fn end(&self) -> u64 {
        self.base + self.kept.len() as u64
    }

    /// What may be sent now, at most one frame of it.
    pub fn sendable(&self) -> Option<Piece> {
        let (_, limit) = self.credit?;
        if self.over {
            return None;
        }
        let end = self.end();
        let bytes = end.min(limit).saturating_sub(self.next).min(MAX_PAYLOAD_BYTES as u64);
        let fin = self.finished && self.next <= end && self.next + bytes == end && end < limit;
        (bytes > 0 || fin).then_some(Piece { offset: self.next, bytes: bytes as usize, fin })
    }

    pub fn piece_bytes(&self, piece: Piece) -> &[u8] {
        let from = (piece.offset - self.base) as usize;
        &self.kept.bytes()[from..from + piece.bytes]
    }

    pub fn mark_sent(&mut self, piece: Piece) {
        self.next = piece.offset + piece.bytes as u64 + u64::from(piece.fin);
        self.high = self.high.max(self.next);
    }

    /// An ACK: positions below `offset` are the peer's, those below `limit` may be sent.
    pub fn acknowledge(&mut self, offset: u64, limit: u64) -> Result<(), Rule> {
        if self.over {
            return Ok(());
        }
        if limit < offset {
            return Err(Rule::LimitBelowOffset);
        }
        if offset > self.high {
            return Err(Rule::AckAboveSent);
        }
        if offset < self.base {
            return Err(Rule::WentBack);
        }
        match self.credit {
            Some((old_offset, old_limit)) if offset < old_offset || limit < old_limit => {
                return Err(Rule::WentBack);
            }
            Some(_) => {}
            None => self.next = offset,
        }
        self.credit = Some((offset, limit));
        if self.finished && offset > self.end() {
            self.abandon();
            return Ok(());
        }
        self.kept.take((offset - self.base) as usize);
        self.base = offset;
        self.next = self.next.max(offset);
        Ok(())
    }

    /// The reader does not want it: nothing is kept any more.
    pub fn abandon(&mut self) {
        self.kept.clear();
        self.over = true;
    }

    /// The connection is gone, and with it all credit.
    pub fn disconnect(&mut self) {
        self.credit = None;
    }
}

/// The receiving end: positions only, the bytes are the caller's.
#[derive(Debug)]
pub struct Receiver {
    next: u64,
    limit: u64,
    ended: bool,
}

impl Receiver {
    pub fn new(next: u64, limit: u64) -> Self {
        Receiver { next, limit, ended: false }
    }

    /// The position an ACK carries; the FIN counts as one.
    pub fn next(&self) -> u64 {
        self.next
    }

    pub fn limit(&self) -> u64 {
        self.limit
    }

    pub fn ended(&self) -> bool {
        self.ended
    }

    pub fn grant(&mut self, limit: u64) {
        self.limit = self.limit.max(limit);
    }

    /// A DATA frame: gives what of it is new.
    pub fn accept<'a>(&mut self, offset: u64, bytes: &'a [u8], fin: bool) -> Result<&'a [u8], Rule> {
        let text_end = offset.checked_add(bytes.len() as u64).ok_or(Rule::WrongOffset)?;
        let end = text_end.checked_add(u64::from(fin)).ok_or(Rule::WrongOffset)?;
        if self.ended {
            // The FIN stands at `next - 1`: nothing may lie there but itself, or end before it.
            let last = self.next - 1;
            let same = if fin { text_end == last } else { text_end <= last };
            return if same { Ok(&[]) } else { Err(Rule::AfterFin) };
        }
        if offset > self.next {
            return Err(Rule::Gap);
        }
        if end > self.limit {
            return Err(Rule::AboveLimit);
        }
        if fin && text_end < self.next {
            return Err(Rule::AfterFin);
        }
        let known = ((self.next - offset) as usize).min(bytes.len());
        self.next = self.next.max(end);
        self.ended = fin;
        Ok(&bytes[known..])
    }
}

#[cfg(test)]
#[path = "streams_tests.rs"]
mod tests;
