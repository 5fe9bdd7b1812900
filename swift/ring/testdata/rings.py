"""Writes random rings and answers what Swift's Ring makes of each: JSON in, JSON out.

Version 2 ("format": 2) takes Swift 2.36 or later; golden/rings.json is its answer to golden/question.json.
"""
import array
import gzip
import json
import os
import random
import struct
import sys
import warnings

from swift.common import exceptions, utils
from swift.common.ring import builder, ring

warnings.simplefilter('ignore')
utils.HASH_PATH_PREFIX, utils.HASH_PATH_SUFFIX = b'', b'changeme'
utils.validate_hash_conf = lambda: None


def device(rnd, i):
    region, zone = rnd.randint(1, 3), rnd.randint(0, 3)
    server = rnd.randint(1, 3)
    return dict(
        id=i, region=region, zone=zone, weight=rnd.choice([0, 0, 1, 100, 100.0, 33.3, 250]),
        ip=rnd.choice(['10.%d.%d.%d' % (region, zone, server), '10.0.0.%d' % server, 'fe80::%d' % server, 'host-%d' % server]),
        port=6200 + rnd.randint(0, 2), replication_ip='10.9.0.%d' % server, replication_port=6300 + rnd.randint(0, 1),
        device='sd%d' % i, meta=rnd.choice(['', 'rack 7', '\u9df9 \U0001fab6']))


def built(rnd):
    """A ring by RingBuilder, which may have lived through changes."""
    while True:
        try:
            return build(rnd)
        except (exceptions.RingValidationError, exceptions.EmptyRingError):
            pass  # fewer devices than replicas: the builder refuses


def build(rnd):
    replicas = rnd.choice([1, 2, 3, 3, 4, 5, 6, 14, 1.5, 2.25, 3.7, 4.01])
    b = builder.RingBuilder(rnd.randint(1, 7), replicas, 0)
    for i in range(rnd.randint(1, 16)):
        d = device(rnd, i)
        if i == 0:
            d['weight'] = 100
        b.add_dev(d)
    if q.get('format') == 2 and rnd.random() < .2:
        b.add_dev(dict(device(rnd, 65535 + rnd.randint(0, 99)), weight=100))  # ids of four bytes
    b.rebalance(seed=rnd.randint(0, 999))
    for _ in range(rnd.randint(0, 2)):
        live = [d for d in b.devs if d and d['weight'] > 0]
        what = rnd.randint(0, 3)
        if what == 0 and len(live) > 1:
            b.remove_dev(rnd.choice(live)['id'])
        elif what == 1:
            b.set_dev_weight(rnd.choice(live)['id'], 7)
        elif what == 2:
            b.add_dev(device(rnd, len(b.devs)))
        else:
            b.set_replicas(rnd.choice([1, 2.5, 3, 4]))
        b.pretend_min_part_hours_passed()
        b.rebalance(seed=rnd.randint(0, 999))
    if rnd.random() < .2:
        b.prepare_increase_partition_power()
    return b.get_ring().to_dict()


def thrown(rnd, power):
    """A ring as no builder would make it: any device anywhere."""
    devs = [device(rnd, i) for i in range(rnd.randint(1, 40))]
    width = 'H'
    if q.get('format') == 2:
        width = rnd.choice('HI')
        if width == 'I' and rnd.random() < .3:
            devs += [None] * 65536 + [device(rnd, 65536 + len(devs) + i) for i in range(rnd.randint(1, 5))]
    usable = [d['id'] for d in devs if d and rnd.random() < .8] or [0]
    rows = [array.array(width, rnd.choices(usable, k=1 << power)) for _ in range(rnd.randint(1, 6))]
    if len(rows) > 1:
        del rows[-1][rnd.choice([1, 1, 1 << power, rnd.randint(0, 1 << power)]):]
    used = set(i for row in rows for i in row)
    for i, d in enumerate(devs):
        if d and i not in used and rnd.random() < .5:
            devs[i] = None
    return dict(devs=devs, part_shift=32 - power, replica2part2dev_id=rows, version=rnd.choice([None, rnd.randint(0, 99)]),
                next_part_power=rnd.choice([None, power, power + 1]))


def write(rnd, path, r):
    """The file, in any of the dialects that rings were written in."""
    text = dict(devs=r['devs'], part_shift=r['part_shift'], replica_count=len(r['replica2part2dev_id']))
    for key in ('version', 'next_part_power'):
        if r.get(key) is not None:
            text[key] = r[key]
        elif rnd.random() < .2:
            text[key] = None
    rows = [array.array('H', row) for row in r['replica2part2dev_id']]
    order = rnd.choice([None, 'little', 'big'])
    if order:
        text['byteorder'] = order
        if order != sys.byteorder:
            for row in rows:
                row.byteswap()
    if rnd.random() < .3:
        for d in text['devs']:
            for key in ('region', 'replication_ip', 'replication_port', 'meta', 'weight'):
                if d and rnd.random() < .5:
                    d.pop(key, None)
    body = json.dumps(text, ensure_ascii=rnd.random() < .8, indent=rnd.choice([None, 1])).encode('utf8')
    with gzip.GzipFile(path, 'wb', rnd.randint(1, 9)) as f:
        f.write(struct.pack('!4sHI', b'R1NG', 1, len(body)))
        f.write(body)
        for row in rows:
            f.write(row.tobytes())


def answer(rnd, path, exhaustive):
    r = ring.Ring(path, reload_time=1e9)
    parts = list(range(r.partition_count))
    if not exhaustive or len(parts) > 16:
        parts = sorted(set([0, len(parts) - 1] + rnd.choices(parts, k=6)))
    # Partitions that the ring does not have get handoffs all the same.
    more = parts + [r.partition_count, r.partition_count + rnd.randint(0, 9999)]
    name = ['AUTH_%d' % rnd.randint(0, 99), 'c', '\u9df9%d' % rnd.randint(0, 99)]
    return dict(
        path=path, dev_id_bytes=r._replica2part2dev_id[0].itemsize, parts=r.partition_count, replicas=r.replica_count, part_power=r.part_power,
        next_part_power=r.next_part_power, version=r.version, dev_count=len(r.devs),
        devs={d['id']: d for d in r.devs if d}, object=name, hash_part=r.get_part(*name),
        nodes={p: [(n['id'], n['index']) for n in r.get_part_nodes(p)] for p in more},
        handoffs={p: [(n['id'], n['handoff_index']) for n in r.get_more_nodes(p)] for p in more})


q = json.load(sys.stdin)
rnd = random.Random(q['seed'])
answers = []
for i in range(q['built'] + q['thrown'] + q['large']):
    path = os.path.join(q['folder'], 'object-%d.ring.gz' % i)
    if i < q['built']:
        r = built(rnd)
    else:
        r = thrown(rnd, rnd.randint(0, 6) if i < q['built'] + q['thrown'] else rnd.randint(16, 18))
    if q.get('format') == 2:
        ring.RingData(r['replica2part2dev_id'], r['devs'], r['part_shift'], r['next_part_power'], r['version']).save(path, format_version=2)
    elif rnd.random() < .3:
        ring.RingData(r['replica2part2dev_id'], r['devs'], r['part_shift'], r['next_part_power'], r['version']).save(path)
    else:
        write(rnd, path, r)
    answers.append(answer(rnd, path, True))
json.dump(answers, sys.stdout)
