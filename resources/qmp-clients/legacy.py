"""Steers a machine's balloon through QEMUMonitorProtocol, as scripts around QEMU do, then ends it.

usage: legacy.py SOCKET GUEST_BYTES TARGET_BYTES
"""

import sys

from qemu.qmp.legacy import QEMUMonitorProtocol

LIMIT_SECONDS = 60.0


def steer(socket: str, guest_bytes: int, target_bytes: int) -> None:
    monitor = QEMUMonitorProtocol(socket)
    monitor.settimeout(LIMIT_SECONDS)
    greeting = monitor.connect()
    assert greeting["QMP"]["version"]["qemu"]["major"] >= 10, greeting

    assert monitor.cmd("query-balloon") == {"actual": guest_bytes}
    unknown = monitor.cmd_raw("no-such-command")
    assert unknown["error"]["class"] == "CommandNotFound", unknown
    answer = monitor.cmd_obj({"execute": "query-status", "id": "mine"})
    assert answer["id"] == "mine" and answer["return"]["running"], answer

    monitor.cmd("balloon", value=target_bytes)
    while True:
        event = monitor.pull_event(wait=LIMIT_SECONDS)
        if event["event"] == "BALLOON_CHANGE" and event["data"]["actual"] == target_bytes:
            break
    assert monitor.cmd("query-balloon") == {"actual": target_bytes}

    monitor.cmd("stop")
    assert monitor.pull_event(wait=LIMIT_SECONDS)["event"] == "STOP"
    assert monitor.cmd("query-status") == {"running": False, "status": "paused"}
    monitor.cmd("cont")
    assert monitor.pull_event(wait=LIMIT_SECONDS)["event"] == "RESUME"

    monitor.cmd("quit")
    try:
        monitor.close()
    except EOFError:
        # The machine, which ends, may be the first to hang up.
        pass


socket, guest_bytes, target_bytes = sys.argv[1:]
steer(socket, int(guest_bytes), int(target_bytes))
