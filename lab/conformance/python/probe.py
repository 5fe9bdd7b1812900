"""Runs one test of Swift's probe suites, by its dotted name. Ends with status 0 when it
ran and passed; a test that is skipped has not passed.

The suites build some daemons in their own process. Here these are programs on PATH,
started as swift-init starts them, whose log is read from the UDP socket they are told.
"""
import os
import subprocess
import sys
import tempfile
import unittest

from swift.cli import relinker
from swift.common import utils
from test.probe import common

from log import Log

# How long a pass over a few objects may take. Beyond it something hangs.
PASS_SECONDS = 120


class Daemon:
    def __init__(self, logger):
        self.logger = logger


def run_custom_daemon(self, klass, conf_section, conf_index, custom_conf, **kwargs):
    conf = utils.readconf(self.configs[conf_section][conf_index], conf_section)
    conf.pop('__file__', None)
    conf.update(custom_conf)
    log = Log()
    conf.update(log_udp_host='127.0.0.1', log_udp_port=log.port)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, '%d.conf' % conf_index)
        with open(path, 'w') as out:
            out.write('[%s]\n' % conf_section)
            out.writelines('%s = %s\n' % item for item in conf.items())
        program = 'swift-' + conf_section
        print('run %s %s once with %s' % (program, conf_index, custom_conf))
        subprocess.run([program, path, 'once'], check=True, timeout=PASS_SECONDS)
    log.read()
    return Daemon(log)


def relink(args):
    return subprocess.run(['swift-object-relinker'] + args, timeout=PASS_SECONDS).returncode


common.ProbeTest.run_custom_daemon = run_custom_daemon
relinker.main = relink

if __name__ == '__main__':
    suite = unittest.defaultTestLoader.loadTestsFromName(sys.argv[1])
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    passed = result.wasSuccessful() and result.testsRun == 1 and not result.skipped
    sys.exit(0 if passed else 1)
