"""The socket that an HTTP server of this project listens on."""

import os
import socket


def listen(host: str, port: int) -> socket.socket:
    """Listen on an address, or raise `OSError` with advice; port 0 lets the system choose one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns off Nagle's delay (40 ms) only if the protocol is named, which create_server does not do.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        problem = f"Cannot listen on {host}, port {port}: {os.strerror(error.errno or 0)}."
        raise OSError(f"{problem} Choose another port with --port.") from error
    return listener
