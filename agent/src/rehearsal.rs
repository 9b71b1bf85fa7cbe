//! `hyper-agent --rehearse`: the program of a rehearsal container. A template and each pooled clone run it once, so that what
//! the first container of a user needs has been used before: under emulation code that runs for the first time is translated
//! first. It prints a line, reads its stdin to the end, and is gone.

use std::io::{self, Read, Write};

const LINE: &[u8] = b"rehearsed\n";

/// The exit code.
pub fn run() -> i32 {
    match rehearse(&mut io::stdin(), &mut io::stdout()) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

fn rehearse(input: &mut impl Read, output: &mut impl Write) -> io::Result<()> {
    output.write_all(LINE)?;
    output.flush()?;
    let mut chunk = [0; 4096];
    loop {
        match input.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // Without a stdin there is nothing to read.
            Err(e) if e.raw_os_error() == Some(libc::EBADF) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_comes_and_all_input_is_taken() {
        let (mut input, mut output) = (io::Cursor::new(vec![7; 10_000]), Vec::new());
        assert!(rehearse(&mut input, &mut output).is_ok());
        assert_eq!(output, LINE);
        assert_eq!(input.position(), 10_000);
    }

    #[test]
    fn an_output_that_is_closed_is_a_failure() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(rehearse(&mut io::empty(), &mut Closed).is_err());
    }
}
