"""One object server of the installed Swift, on loopback, for one test.

Reads its settings as a line of JSON from standard input, answers with a line of JSON
({"port": N}), and serves until standard input ends. It reads nothing from /etc/swift.
"""
import eventlet
eventlet.monkey_patch()

import json
import logging
import os
import sys
import threading

from swift.common import storage_policy, utils

settings = json.loads(sys.stdin.readline())
utils.HASH_PATH_PREFIX = settings["prefix"].encode()
utils.HASH_PATH_SUFFIX = settings["suffix"].encode()
storage_policy._POLICIES = storage_policy.StoragePolicyCollection([
    storage_policy.StoragePolicy(0, "replicated", is_default=True),
    storage_policy.ECStoragePolicy(
        1, "ec", ec_type=settings["ec_type"], ec_ndata=settings["k"],
        ec_nparity=settings["m"], ec_segment_size=settings["segment"]),
])

from swift.common.http_protocol import SwiftHttpProtocol
from swift.obj import server
from swift.obj.diskfile import ECDiskFileManager

conf = {
    "devices": settings["devices"],
    "mount_check": "false",
    "bind_port": "0",
    "client_timeout": "20",
    "reclaim_age": str(100 * 365 * 86400),  # timestamps in tests are fixed
    "replication_lock_timeout": str(settings["lock_timeout"]),
}
if settings["concurrency"]:
    conf["replication_semaphore"] = [
        eventlet.semaphore.BoundedSemaphore(settings["concurrency"])]
logging.basicConfig(stream=sys.stderr, level=logging.DEBUG)
app = server.ObjectController(conf, logger=utils.get_logger(
    {"log_level": "DEBUG"}, log_route="object-server", log_to_console=True))
sock = eventlet.listen(("127.0.0.1", 0))
print(json.dumps({"port": sock.getsockname()[1]}), flush=True)


def until_stdin_ends():
    eventlet.hubs.trampoline(0, read=True)
    os._exit(0)


eventlet.spawn(until_stdin_ends)
eventlet.wsgi.server(sock, app, utils.NullLogger(), protocol=SwiftHttpProtocol,
                     capitalize_response_headers=False, socket_timeout=20.0)
