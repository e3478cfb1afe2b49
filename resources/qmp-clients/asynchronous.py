"""Steers a machine's balloon through QMPClient, then ends the machine.

usage: asynchronous.py SOCKET GUEST_BYTES TARGET_BYTES
"""

import asyncio
import sys

from qemu.qmp import EventListener, ExecuteError, QMPClient

LIMIT_SECONDS = 60


async def steer(socket: str, guest_bytes: int, target_bytes: int) -> None:
    client = QMPClient("test")
    await client.connect(socket)
    assert client.greeting is not None and "oob" in client.greeting.QMP.capabilities

    names = {entry["name"] for entry in await client.execute("query-commands")}
    assert {"balloon", "query-balloon", "quit"} <= names, names
    assert (await client.execute("query-status"))["status"] == "running"
    assert await client.execute("query-balloon") == {"actual": guest_bytes}
    try:
        await client.execute("balloon", {"value": "much"})
        raise AssertionError("a size that is no number was taken")
    except ExecuteError as error:
        assert error.error_class == "GenericError", error
        assert "value" in str(error), error

    changes = EventListener("BALLOON_CHANGE")
    with client.listen(changes):
        await client.execute("balloon", {"value": target_bytes})
        async for event in changes:
            if event["data"]["actual"] == target_bytes:
                break
    assert await client.execute("query-balloon") == {"actual": target_bytes}

    # Answered one after the other, though sent at once.
    answers = await asyncio.gather(*(client.execute("query-status") for _ in range(50)))
    assert all(answer["running"] for answer in answers)

    shutdown = EventListener("SHUTDOWN")
    with client.listen(shutdown):
        await client.execute("quit")
        assert (await shutdown.get())["data"] == {"guest": False, "reason": "host-qmp-quit"}
    try:
        await client.disconnect()
    except EOFError:
        # The machine, which ends, may be the first to hang up.
        pass


socket, guest_bytes, target_bytes = sys.argv[1:]
asyncio.run(
    asyncio.wait_for(steer(socket, int(guest_bytes), int(target_bytes)), LIMIT_SECONDS)
)
