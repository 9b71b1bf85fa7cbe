"""The registry client: OCI distribution 1.1 and Docker's v2, over aiohttp."""
