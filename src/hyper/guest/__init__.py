"""What runs inside a sandbox, seen from the host: kernel finder, initramfs, host side of the agent protocol."""
