"""Sandboxes: one place to ask for a running VM with an agent that answers (:mod:`hyper.sandboxes.source`)."""
