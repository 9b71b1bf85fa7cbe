"""Layers into one tree: ``paths`` (names), ``merge`` (whiteouts, links, hiding), ``build`` (a whole image's disk)."""
