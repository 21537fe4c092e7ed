"""The socket that a server of ours listens on."""

import os
import socket

import click


def listen(host: str, port: int) -> socket.socket:
    """Listen on an address; port 0 takes a free one.

    Raises
    ------
    click.ClickException
        The port is in use, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # only where the protocol is named, unlike in create_server, does asyncio turn Nagle's delay (40 ms) off
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise click.ClickException(
            f"cannot listen on {host}, port {port}: {os.strerror(error.errno or 0)}"
        ) from error
    return listener
