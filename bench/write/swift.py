# Writes the files of a task with Swift's DiskFile, 32 at a time as its object server would, and prints what it cost.
import eventlet
eventlet.monkey_patch()
import hashlib, json, logging, resource, sys, time

logging.disable(logging.CRITICAL)
logger = logging.getLogger()
logger.increment = lambda name: None
from swift.common import utils, storage_policy
utils.HASH_PATH_PREFIX, utils.HASH_PATH_SUFFIX = b'', b'bench'
policy = storage_policy.StoragePolicy(0, name='zero', is_default=True)
storage_policy._POLICIES = storage_policy.StoragePolicyCollection([policy])
from swift.obj import diskfile

task = json.loads(sys.argv[1])
size, files = task['Load']['Size'], task['Load']['Files']
content = bytes((i * 7 >> 3) & 255 for i in range(size if size < 1 << 17 else 1 << 16)) * (1 if size < 1 << 17 else size >> 16)
manager = diskfile.DiskFileManager({'devices': task['Dir'], 'mount_check': 'false'}, logger)


def write(i):
    df = manager.get_diskfile('sda', str(i % 64), 'a', 'c', str(i), policy)
    digest = hashlib.md5()
    with df.create(size=size) as w:
        for at in range(0, size, 65536):
            piece = content[at:at + 65536]
            digest.update(piece)
            w.write(piece)
        w.put({'X-Timestamp': utils.Timestamp.now().internal, 'Content-Type': 'application/octet-stream',
               'Content-Length': str(size), 'ETag': digest.hexdigest()})
        w.commit(utils.Timestamp.now())


def used():
    u = resource.getrusage(resource.RUSAGE_SELF)
    return u.ru_utime + u.ru_stime


start, before = time.time(), used()
pool = eventlet.GreenPool(32)
for _ in pool.imap(write, range(files)):
    pass
print(json.dumps({'Wall': time.time() - start, 'CPU': used() - before}))
