"""Runs Swift's reconstructor, and hashes suffixes as Swift does, from one process that has
imported Swift once. A question is a line of JSON on stdin, its answer one on stdout:

{"argv": [...], "output": path}  a program (a Python script): its exit status
{"devices": {folder: [names]}, "policies": [...]}
    {device: {policy: {partition: [hashes as they are kept, hashes made anew]}}}
"""
import json
import os
import random
import runpy
import sys
import traceback

import swift.common.utils
import swift.obj.reconstructor
from swift.common.storage_policy import POLICIES
from swift.obj import diskfile

swift.common.utils.eventlet_monkey_patch()


def run(question):
    os.setpgid(0, 0)
    for fd, path, flags in ((0, '/dev/null', os.O_RDONLY),
                            (1, question['output'],
                             os.O_WRONLY | os.O_CREAT | os.O_APPEND)):
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, fd)
        os.close(opened)
    os.dup2(1, 2)
    random.seed()
    sys.argv = question['argv']
    runpy.run_path(sys.argv[0], run_name='__main__')


def plain(hashes):
    return {suffix: {'' if k is None else str(k): v for k, v in of.items()}
            if of else {} for suffix, of in hashes.items()}


def hashes(question):
    answer = {}
    logger = swift.common.utils.get_logger({}, log_to_console=True)
    for folder, names in question['devices'].items():
        conf = {'devices': folder, 'mount_check': 'false'}
        router = diskfile.DiskFileRouter(conf, logger)
        for name in names:
            for index in question['policies']:
                policy = POLICIES[index]
                manager = router[policy]
                data = os.path.join(folder, name,
                                    diskfile.get_data_dir(policy))
                if not os.path.isdir(data):
                    continue
                for part in os.listdir(data):
                    path = os.path.join(data, part)
                    if not part.isdigit() or not os.path.isdir(path):
                        continue
                    _, kept = manager._get_hashes(name, part, policy)
                    every = [s for s in os.listdir(path) if len(s) == 3]
                    _, anew = manager._get_hashes(
                        name, part, policy, recalculate=every,
                        do_listdir=True)
                    answer.setdefault(name, {}).setdefault(str(index), {})[
                        part] = [plain(kept), plain(anew)]
    return answer


def child(do):
    """The exit status of a process of its own."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            do()
            status = 0
        except SystemExit as e:
            status = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


answers = os.dup(1)
os.dup2(2, 1)
for line in sys.stdin:
    question = json.loads(line)
    if 'argv' in question:
        answer = child(lambda: run(question))
    else:
        answer = hashes(question)
    os.write(answers, (json.dumps(answer) + '\n').encode())
