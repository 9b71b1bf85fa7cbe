"""QEMU: a pure command line, a QMP client, a life cycle, and the accelerator probe."""
