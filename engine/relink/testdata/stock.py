"""Swift's relinker and what belongs to it, a JSON request a line, a JSON answer a line.

argv[1] is the swift.conf, argv[2] the partition power of the rings. {"rings": FOLDER} leaves rings of the steps of an increase in a folder;
{"relinker": WORDS} runs the relinker; {"hash": DEVICES} hashes all partitions of a folder of devices.
"""
import json
import os
import sys
import traceback

from swift.common import utils
utils.SWIFT_CONF_FILE = sys.argv[1]
utils.validate_hash_conf()

from swift.cli import relinker  # noqa: E402
from swift.common.ring import RingBuilder  # noqa: E402
from swift.common.storage_policy import POLICIES  # noqa: E402
from swift.obj import diskfile  # noqa: E402


def save(builder, folder, step):
    builder._ring = None
    for index in range(2):
        builder.get_ring().save(os.path.join(folder, '%s%s.ring.gz' % (step, '-%d' % index if index else '')))


def rings(folder):
    def builder():
        b = RingBuilder(int(sys.argv[2]), 6, 1)
        for i in range(6):
            b.add_dev({'id': i, 'region': 0, 'zone': i, 'weight': 1, 'ip': '127.0.0.1', 'port': 6200 + i, 'device': 'sd%d' % i})
        b.rebalance(seed=1)
        return b
    b = builder()
    save(b, folder, 'none')
    b.prepare_increase_partition_power()
    save(b, folder, 'relink')
    b.increase_partition_power()
    save(b, folder, 'cleanup')
    b = builder()
    b.prepare_increase_partition_power()
    b.cancel_increase_partition_power()
    save(b, folder, 'cancelled')


def relink(words):
    try:
        return relinker.main(words)
    except SystemExit as end:
        return end.code
    except BaseException:
        traceback.print_exc()
        return 'raised'


def hash_all(devices):
    for policy in POLICIES:
        manager = diskfile.DiskFileRouter({'devices': devices, 'mount_check': 'false'}, utils.get_logger({}))[policy]
        for device in os.listdir(devices):
            folder = os.path.join(devices, device, diskfile.get_data_dir(policy))
            for part in os.listdir(folder) if os.path.isdir(folder) else []:
                if part.isdigit():
                    manager.get_hashes(device, part, [], policy)


def forked(do, value):
    """Swift's threads and hubs do not outlive a fork, and the relinker forks."""
    get, put = os.pipe()
    if os.fork() == 0:
        with os.fdopen(put, 'w') as out:
            out.write(json.dumps(do(value)))
        os._exit(0)
    os.close(put)
    with os.fdopen(get) as answer:
        said = answer.read()
    os.wait()
    return said


answer = os.fdopen(os.dup(1), 'w')
os.dup2(2, 1)
for line in sys.stdin:
    (what, value), = json.loads(line).items()
    answer.write(forked({'rings': rings, 'relinker': relink, 'hash': hash_all}[what], value) + '\n')
    answer.flush()
