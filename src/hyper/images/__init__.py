"""Images: content store, archives, layers merged into read-only EROFS disks, tags."""
