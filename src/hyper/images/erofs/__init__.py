"""Our own EROFS writer: uncompressed, streaming, deterministic. ``writer.ErofsWriter`` is its face."""
