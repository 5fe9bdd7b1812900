"""Starts Swift's servers from one process that has imported Swift once, because the
imports take each of them half a second of CPU, and nearly all else a twentieth.

Reads a JSON list of {argv, output, uid, gid} on stdin, runs each program (a Python
script) in a process of its own, writes the list of their pids to stdout and ends.
"""
import json
import os
import random
import runpy
import sys

import swift.account.server
import swift.common.middleware.recon
import swift.common.utils
import swift.common.wsgi
import swift.container.server
import swift.obj.server
import swift.proxy.server


def become(server):
    os.setpgid(0, 0)
    for fd, path, flags in ((0, '/dev/null', os.O_RDONLY),
                            (1, server['output'], os.O_WRONLY | os.O_CREAT | os.O_APPEND)):
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, fd)
        os.close(opened)
    os.dup2(1, 2)
    os.setgroups([])
    os.setgid(server['gid'])
    os.setuid(server['uid'])
    random.seed()
    sys.argv = server['argv']
    runpy.run_path(sys.argv[0], run_name='__main__')


# Every server does this first of all, and it is done once only. It takes as long as the
# imports.
swift.common.utils.eventlet_monkey_patch()

pids = []
for server in json.load(sys.stdin):
    pid = os.fork()
    if pid == 0:
        become(server)
        sys.exit()
    pids.append(pid)
json.dump(pids, sys.stdout)
