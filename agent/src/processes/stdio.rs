//! Bytes between a process's pipes or terminal and the link's streams, with back pressure in both directions.

use super::{Which, MAX_PIPE_BYTES, TURN_BYTES};
use crate::agent::{Agent, Token};
use crate::link::OUTPUT_KEPT_BYTES;
use crate::sys;
use std::io;

impl Agent {
    pub fn stdio_ready(&mut self, which: Which, serial: u64, events: i32) {
        match which {
            Which::Input if events & (libc::EPOLLERR | libc::EPOLLHUP) != 0 => {
                self.refuse_input(serial, "the process closed its stdin");
            }
            Which::Input => self.pump_input(serial),
            _ => self.pump_output(serial, which),
        }
    }

    pub fn pump_outputs(&mut self, serial: u64) {
        self.pump_output(serial, Which::Output);
        self.pump_output(serial, Which::Error);
    }

    /// Moves what the process printed into its stream, as far as there is room.
    fn pump_output(&mut self, serial: u64, which: Which) {
        let mut turn = TURN_BYTES;
        loop {
            let Some(process) = self.processes.get_mut(&serial) else { return };
            let ended = process.exit.is_some();
            let end = match which {
                Which::Output => process.output.as_mut(),
                _ => process.error.as_mut(),
            };
            let Some(end) = end else { return };
            // What is left in the pipe must not be lost, whoever is not reading; a process left behind may go on printing.
            let most = if ended { OUTPUT_KEPT_BYTES + MAX_PIPE_BYTES } else { OUTPUT_KEPT_BYTES };
            let room = self.link.output_room(end.stream, most).min(self.scratch.len()).min(turn);
            if room == 0 {
                let full = turn > 0;
                if full && end.watched {
                    // Not only without interest: a closed writer would be told again and again.
                    self.epoll.remove(&end.fd);
                    end.watched = false;
                } else if !full && !end.watched {
                    let _ = self.epoll.add(&end.fd, libc::EPOLLIN, Token::Stdio(which, serial).pack());
                    end.watched = true;
                }
                return;
            }
            match sys::read(&end.fd, &mut self.scratch[..room]) {
                // A terminal whose other side is closed reads as EIO.
                Ok(0) => return self.output_ended(serial, which),
                Ok(n) => {
                    turn -= n;
                    self.link.write(end.stream, &self.scratch[..n]);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !end.watched {
                        let _ = self.epoll.add(&end.fd, libc::EPOLLIN, Token::Stdio(which, serial).pack());
                        end.watched = true;
                    }
                    return;
                }
                Err(_) => return self.output_ended(serial, which),
            }
        }
    }

    fn output_ended(&mut self, serial: u64, which: Which) {
        let stream = self.processes.get(&serial).and_then(|p| {
            match which {
                Which::Output => p.output.as_ref(),
                _ => p.error.as_ref(),
            }
            .map(|end| end.stream)
        });
        self.close_end(serial, which);
        if let Some(stream) = stream {
            self.link.finish(stream);
        }
        self.drained(serial);
    }

    /// Gives the process what the host sent to its stdin, as far as it takes it.
    pub fn pump_input(&mut self, serial: u64) {
        let mut turn = TURN_BYTES;
        loop {
            let Some(process) = self.processes.get_mut(&serial) else { return };
            let tty = process.tty;
            let Some(end) = process.input.as_mut() else { return };
            let Some((bytes, ended)) = self.link.input(end.stream) else { return };
            if bytes.is_empty() {
                if end.watched {
                    self.watch_input(serial, false);
                }
                if ended && !tty {
                    self.close_end(serial, Which::Input);
                }
                return;
            }
            if turn == 0 {
                return self.watch_input(serial, true);
            }
            match sys::write(&end.fd, &bytes[..bytes.len().min(turn)]) {
                Ok(n) => {
                    turn -= n;
                    let stream = end.stream;
                    self.link.input_taken(stream, n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !end.watched {
                        self.watch_input(serial, true);
                    }
                    return;
                }
                Err(_) => return self.refuse_input(serial, "the process closed its stdin"),
            }
        }
    }

    /// `on`: tell when the process takes more. A pipe is watched for its reader's end in any case.
    fn watch_input(&mut self, serial: u64, on: bool) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let tty = process.tty;
        let Some(end) = process.input.as_mut() else { return };
        end.watched = on;
        let token = Token::Stdio(Which::Input, serial);
        let (events, fd) = (if on { libc::EPOLLOUT } else { 0 }, &end.fd);
        if tty && !on {
            self.epoll.remove(fd);
        } else if self.epoll.change(fd, events, token.pack()).is_err() {
            let _ = self.epoll.add(fd, events, token.pack());
        }
    }

    pub(super) fn refuse_input(&mut self, serial: u64, reason: &'static str) {
        let stream = self.processes.get(&serial).and_then(|p| p.input.as_ref()).map(|end| end.stream);
        self.close_end(serial, Which::Input);
        if let Some(stream) = stream {
            self.link.refuse_input(stream, reason);
        }
    }

    pub(super) fn close_end(&mut self, serial: u64, which: Which) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let end = match which {
            Which::Output => process.output.take(),
            Which::Error => process.error.take(),
            Which::Input => process.input.take(),
        };
        if let Some(end) = end {
            self.epoll.remove(&end.fd);
        }
    }
}
