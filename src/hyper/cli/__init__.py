"""``hyper``: the command line. It speaks only the engine's API (:mod:`hyper.client`) and keeps close to docker's words.

:mod:`hyper.cli.main` finds the verb in :mod:`hyper.cli.verbs` and imports the one module that has it: what is not
imported costs nothing,
and `hyper version` has 40 ms for all. Therefore no module here imports typing, dataclasses or argparse at run time.
"""
