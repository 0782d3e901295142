"""Publishes a port of a container on this machine: listens here, connects in the network namespace of a process."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import sys

_CLONE_NEWNET = 0x40000000


async def main(address: str, port: int, target: tuple[str, int], namespace: int) -> None:
    listening = socket.create_server((address, port))
    # A socket stays in the namespace in which it was made: this one outside, those that follow inside.
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection(*target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    async with await asyncio.start_server(serve, sock=listening) as server:
        await server.serve_forever()


if __name__ == "__main__":
    _, address, port, process, target, target_port = sys.argv
    namespace = os.open(f"/proc/{process}/ns/net", os.O_RDONLY)
    asyncio.run(main(address, int(port), (target, int(target_port)), namespace))
