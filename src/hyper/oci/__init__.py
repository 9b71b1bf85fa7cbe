"""Pure data of the OCI specifications: digests, references, descriptors, manifests, image configs, runtime specs."""
