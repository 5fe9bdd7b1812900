"""Builds the lab's rings: a JSON list of {path, part_power, replicas, devices} on stdin."""
import json
import sys

from swift.common.ring import RingBuilder

for want in json.load(sys.stdin):
    builder = RingBuilder(want['part_power'], want['replicas'], 0)
    for device in want['devices']:
        builder.add_dev(device)
    builder.rebalance(seed='lab')
    builder.get_ring().save(want['path'] + '.ring.gz')
    builder.save(want['path'] + '.builder')
