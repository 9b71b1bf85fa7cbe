"""Write an EROFS image in one pass: file data as it comes, then directories, inodes and, last of all, the superblock.

So a file that was cut short by a crash is never a file system. Memory holds the tree's metadata, never file contents.

Neighbours: ``hyper.images.layers.merge`` (feeds it), ``data.py``, ``metadata.py``, ``format.py``.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hyper.images.erofs import metadata
from hyper.images.erofs.data import DataArea
from hyper.images.erofs.format import BLOCK_BITS, pack_super_block
from hyper.images.tree import Directory


class ErofsWriter:
    """Writes to ``descriptor``, an empty file open for writing; ``scratch`` is a directory for " "unnamed temporary
    files.
    """

    def __init__(self, descriptor: int, scratch: Path) -> None:
        self._descriptor = descriptor
        self.data = DataArea(descriptor, scratch)

    def finish(self, root: Directory, uuid: bytes) -> int:
        """Write the tree; returns the image's size in bytes. InvalidArgument for a hard link without a target.

        ``uuid``: 16 bytes; give the same for the same input to get the same image.
        """
        area = self.data
        try:
            tree = metadata.plan(root)
            area.pad()
            for inode in tree.inodes:
                if stat.S_ISLNK(inode.mode) and not metadata.target_inline(inode):
                    inode.first_block = area.append_blocks(inode.target)
            blocks = metadata.place(tree)
            for cut in tree.directories.values():
                whole = cut.blocks[:-1] if cut.tail_bytes else cut.blocks
                for number, (start, end) in enumerate(whole):
                    block = area.append_blocks(metadata.directory_block(cut, start, end))
                    if number == 0:
                        cut.first_block = block
            meta_block = area.end_bytes >> BLOCK_BITS
            for data in metadata.metadata_blocks(blocks, tree, area.tail):
                area.append_blocks(data)
            area.flush()
            total = area.end_bytes
            os.ftruncate(self._descriptor, total)
            head = pack_super_block(
                root_nid=root.nid,
                inodes=len(tree.inodes),
                time_s=tree.time_s,
                time_ns=tree.time_ns,
                blocks=total >> BLOCK_BITS,
                meta_block=meta_block,
                uuid=uuid,
                chunked=area.chunked,
            )
            os.pwrite(self._descriptor, head, 0)
            return total
        finally:
            area.close()
