"""How registries fail, as one error type in the words that docker users know.

Transport failures look like those of Go's HTTP client (``Get "https://…": dial tcp …: connect: connection refused``),
because that is what scripts and people search for. Neighbours: ``transport.py`` (raises), ``retry.py`` (asks
``transient``), ``hyper.oci.distribution`` (error answers).
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from hyper.errors import HyperError, NotFound, RemoteFailure
from hyper.oci.reference import Reference

_UNKNOWN_AUTHORITY = frozenset({18, 19, 20, 21, 2})
"""OpenSSL's verify codes for a chain that ends at nobody whom we trust."""
_HOST_MISMATCH = frozenset({62, 64})


class RegistryFailure(RemoteFailure):
    """``code``: the registry's own error code or ""; ``status``: HTTP's or 0. ``transient``: may go away by itself."""

    def __init__(
        self, message: str, *, code: str = "", status: int = 0, transient: bool = False, retry_after_s: float = 0.0
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.transient = transient
        self.retry_after_s = retry_after_s


class NoConnection(RegistryFailure):
    """Nobody answered there, or not in the protocol that was tried: another address of the same registry may."""


def pull_failure(error: RegistryFailure, reference: Reference) -> HyperError:
    """The error that ``docker pull`` shows."""
    if error.code == "DENIED":
        return NotFound(
            f"pull access denied for {reference.familiar_name}, repository does not exist or may require "
            f"'docker login': {error.message}"
        )
    if error.code == "MANIFEST_UNKNOWN":
        return NotFound(f"manifest for {reference.familiar} not found: {error.message}")
    if error.code == "NAME_UNKNOWN":
        return NotFound(f"repository {reference.familiar_name} not found: {error.message}")
    return error


@contextmanager
def translated(method: str, url: str) -> Iterator[None]:
    """What aiohttp and the system raise in here becomes a :class:`RegistryFailure` that names the request."""
    import aiohttp

    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        raise NoConnection(_about(method, url, _certificate(error.certificate_error))) from error
    except aiohttp.ClientSSLError as error:
        raise NoConnection(_about(method, url, _tls(error.os_error))) from error
    except aiohttp.ClientConnectorDNSError as error:
        raise NoConnection(
            _about(method, url, f"dial tcp: lookup {error.host}: {_lookup(error.os_error)}"), transient=True
        ) from error
    except aiohttp.ClientHttpProxyError as error:
        raise NoConnection(_about(method, url, f"proxyconnect: {error.status} {error.message}")) from error
    except aiohttp.ClientConnectorError as error:
        refused = error.os_error.errno
        raise NoConnection(
            _about(method, url, f"dial tcp {error.host}:{error.port}: connect: {_system(error.os_error)}"),
            transient=refused is not None,
        ) from error
    except aiohttp.ClientPayloadError as error:
        raise RegistryFailure(_about(method, url, "unexpected EOF"), transient=True) from error
    except aiohttp.ServerDisconnectedError as error:
        raise RegistryFailure(_about(method, url, "EOF"), transient=True) from error
    except (aiohttp.ClientResponseError, aiohttp.http.HttpProcessingError) as error:
        raise RegistryFailure(_about(method, url, f"malformed HTTP response: {error.message[:200]}")) from error
    except aiohttp.InvalidURL as error:
        raise RegistryFailure(_about(method, url, "invalid URL")) from error
    except TimeoutError as error:
        raise RegistryFailure(_about(method, url, "the registry did not answer in time"), transient=True) from error
    except (ssl.SSLError, ssl.CertificateError) as error:
        raise NoConnection(_about(method, url, _tls(error))) from error
    except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as error:
        why = _system(error) if isinstance(error, OSError) else str(error)
        raise RegistryFailure(_about(method, url, why or type(error).__name__), transient=True) from error


def _about(method: str, url: str, why: str) -> str:
    return f'{method.capitalize()} "{url}": {why}'


def _certificate(error: Exception) -> str:
    code = getattr(error, "verify_code", 0)
    said = getattr(error, "verify_message", "") or str(error)
    if code in _UNKNOWN_AUTHORITY:
        return "tls: failed to verify certificate: x509: certificate signed by unknown authority"
    if code == 10:
        return "tls: failed to verify certificate: x509: certificate has expired or is not yet valid"
    if code in _HOST_MISMATCH:
        return f"tls: failed to verify certificate: x509: certificate is not valid for this name: {said}"
    return f"tls: failed to verify certificate: x509: {said}"


def _tls(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _certificate(error)
    reason = getattr(error, "reason", None) or str(error)
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
        return "http: server gave HTTP response to HTTPS client"
    return f"remote error: tls: {reason}"


def _lookup(error: OSError) -> str:
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
        return "Temporary failure in name resolution"
    return "no such host"


def _system(error: OSError) -> str:
    """``connection refused``: the system's words in lower case, as Go writes them."""
    return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
