//! The host's directories: one virtio file system per sandbox, with a folder (or a file) in it for each. A container that
//! has some mounts it in its own mount namespace, and binds what it needs from there.

use crate::error::{describe, Error, Result};
use crate::sys;
use std::time::{Duration, Instant};

/// Mounts of a spec have sources below it.
pub const FOLDER: &str = "/run/hyper/share";
const DEADLINE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(1);

/// Mounts it at `FOLDER`; the device may have been plugged in a moment ago.
pub fn mount(tag: &str) -> Result<()> {
    let began = Instant::now();
    loop {
        let error = match sys::mount(tag, FOLDER, "virtiofs", 0, "") {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let text = || format!("cannot mount the shared directories: {}", describe(&error));
        match error.raw_os_error() {
            // No device has this tag yet.
            Some(libc::EINVAL) if began.elapsed() < DEADLINE => std::thread::sleep(POLL),
            Some(libc::EINVAL) => {
                return Err(Error::DeadlineExceeded("the device of the shared directories did not come in 5 s".into()))
            }
            Some(libc::ENODEV) => {
                let text =
                    "the guest kernel has no virtiofs (CONFIG_VIRTIO_FS), so it cannot have the host's directories";
                return Err(Error::Unsupported(text.into()));
            }
            _ => return Err(Error::Internal(text())),
        }
    }
}
