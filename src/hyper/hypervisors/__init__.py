"""Hypervisor drivers: one folder (or file) each behind :mod:`hyper.hypervisors.base`."""
