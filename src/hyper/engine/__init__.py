"""Use cases: containers, execs, images, events, logs, recovery. The doors (``hyper.api``) call these and nothing
below."""
