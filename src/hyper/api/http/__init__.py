"""A small HTTP/1.1 server whose connections can be taken over (hijacked), as Docker's attach and exec need.

``head`` parses a request's head with httptools; ``channel`` is one connection's bytes with flow control both ways;
``messages`` holds requests and the kinds of responses; ``connection`` is the life of one connection; ``server``
listens.
Nothing here knows Docker.
"""
