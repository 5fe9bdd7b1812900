"""Runs one test of Swift's probe suites, by its dotted name. Ends with status 0 when it
ran and passed; a test that is skipped has not passed.

The suites build some daemons in their own process. Here these are programs on PATH,
started as swift-init starts them, whose log is read from the UDP socket they are told.
"""
import os
import re
import socket
import subprocess
import sys
import tempfile
import unittest

from swift.common import utils
from test.probe import common

LEVELS = {2: 'critical', 3: 'error', 4: 'warning', 5: 'notice', 6: 'info', 7: 'debug'}
# How long a pass over a few objects may take. Beyond it something hangs.
PASS_SECONDS = 120


class Log:
    """What a program logged: syslog datagrams on a UDP socket of loopback."""

    def __init__(self):
        self.lines = {level: [] for level in LEVELS.values()}
        self.logger = self  # the tests ask daemon.logger.logger
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind(('127.0.0.1', 0))
        self.port = self.socket.getsockname()[1]

    def read(self):
        """Takes what has arrived: on loopback, all that an ended program has sent."""
        self.socket.setblocking(False)
        while True:
            try:
                data = self.socket.recv(1 << 16)
            except BlockingIOError:
                return
            match = re.match(rb'<(\d+)>(?:[^ :]+: )?(.*)', data.rstrip(b'\0\n'), re.S)
            text = match.group(2).decode('utf8', 'replace')
            level = LEVELS.get(int(match.group(1)) & 7, 'critical')
            self.lines[level].append(text)
            print('%s: %s' % (level, text))

    def get_lines_for_level(self, level):
        return self.lines[level]


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


common.ProbeTest.run_custom_daemon = run_custom_daemon

if __name__ == '__main__':
    suite = unittest.defaultTestLoader.loadTestsFromName(sys.argv[1])
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    passed = result.wasSuccessful() and result.testsRun == 1 and not result.skipped
    sys.exit(0 if passed else 1)
