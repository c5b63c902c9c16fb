"""Where the service listens: loopback unless told otherwise; beyond it, only with a key to let in and with TLS.

sock = listen(Address("127.0.0.1", 8000))
check_address(Address("0.0.0.0"), keys, tls=True)          # raises Usage "host-without-keys", "host-without-tls"
"""

import ipaddress
import socket
from typing import NamedTuple

from medserve.access.keys import KeyRing
from medserve.errors import Usage
from medserve.serving.tls import Tls


class Address(NamedTuple):
    host: str = "127.0.0.1"
    port: int = 8000


def check_address(address: Address, keys: KeyRing, *, tls: bool = False, behind_proxy: bool = False) -> str | None:
    """Whether this address may be opened.

    Args:
        behind_proxy: a reverse proxy with TLS stands in front, by the operator's word.

    Returns: a warning to print, or None.
    Raises: Usage "host-without-keys": an address beyond this machine, and nobody to let in; "host-without-tls".
    """
    if is_loopback(address.host):
        return None
    if not keys.active():
        raise Usage(
            "host-without-keys",
            f"{address.host} can be reached from other machines, but there is no active API key.",
            hint="Make one first: medserve keys create --name NAME. Or serve on 127.0.0.1.",
        )
    if not tls and not behind_proxy:
        raise Usage(
            "host-without-tls",
            f"{address.host} can be reached from other machines: without TLS keys and images travel readable.",
            hint="Add --tls-cert FILE --tls-key FILE, or --tls self-signed; or --behind-proxy where a reverse proxy "
            "with TLS stands in front.",
        )
    return None if tls else f"{address.host} speaks plain HTTP: only the proxy in front of it may reach it."


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(address: Address, *, shared: bool = False) -> socket.socket:
    """shared: other sockets of this user may listen there too, and the system deals out who comes.

    Raises: Usage "port-taken", "host-unusable".
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((address.host, address.port))
        sock.listen(1024)
    except (OSError, OverflowError) as error:
        sock.close()
        code = "port-taken" if isinstance(error, OSError) and error.errno == 98 else "host-unusable"
        raise Usage(
            code,
            f"Cannot listen on {address.host}, port {address.port}.",
            hint="Choose another --port or --host.",
        ) from error
    sock.setblocking(False)
    return sock


def url_of(host: str, sock: socket.socket, tls: Tls | None) -> str:
    """host: as it was given. sock: listens there."""
    host = f"[{host}]" if ":" in host else host
    return f"{'http' if tls is None else 'https'}://{host}:{sock.getsockname()[1]}"
