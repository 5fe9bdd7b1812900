"""Swift's relinker under the swift.conf of argv[1]; or, for "rings POWER FOLDER", rings of both steps of an increase."""
import os
import sys

from swift.common import utils
utils.SWIFT_CONF_FILE = sys.argv[1]

if sys.argv[2] == 'rings':
    from swift.common.ring import RingBuilder
    builder = RingBuilder(int(sys.argv[3]), 1, 1)
    builder.add_dev({'id': 0, 'region': 0, 'zone': 0, 'weight': 1, 'ip': '127.0.0.1', 'port': 6200, 'device': 'sd0'})
    builder.rebalance()
    builder.prepare_increase_partition_power()
    builder.get_ring().save(os.path.join(sys.argv[4], 'relink.ring.gz'))
    builder.increase_partition_power()
    builder._ring = None
    builder.get_ring().save(os.path.join(sys.argv[4], 'cleanup.ring.gz'))
else:
    from swift.cli.relinker import main
    sys.exit(main(sys.argv[2:]))
