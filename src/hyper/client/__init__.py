"""A small blocking client of the engine's HTTP API, for the command line.

Blocking sockets and the standard library only: a whole `hyper version` has 40 ms, and importing an HTTP library
alone costs 20. Nothing in
here needs Linux but :mod:`hyper.client.autostart`.

* :mod:`hyper.client.address`   where the engine is: ``-H``, the environment, the default socket
* :mod:`hyper.client.http`      HTTP/1.1 over that socket: responses in bounded pieces, connections taken over
* :mod:`hyper.client.engine`    requests and answers in JSON; HTTP errors become :mod:`hyper.errors`
* :mod:`hyper.client.frames`    the 8-byte frames in which stdout and stderr share one connection
* :mod:`hyper.client.autostart` starting ``hyperd`` when none runs
"""
