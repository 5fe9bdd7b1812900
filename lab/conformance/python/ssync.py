"""Runs Swift's tests of its SSYNC sender, with an object server on PATH for the receiver
that they build in their own process. The last line of output is a JSON object: of each
test's name, what is wrong with it, or nothing.

The tests look at the receiver's disks, with Swift's own code, and some at its log: the
server ends before the latter is read, so that it is whole.
"""
import os
import signal
import socket
import subprocess
import sys

from test.unit.obj import test_ssync

from log import Log
from swiftconf import write_swift_conf
from verdicts import print_verdicts

# How long the server may take for a step that takes it a moment.
PATIENCE = 60


class Receiver(Log):
    """The server, and its log."""

    def __init__(self, folder, devices):
        super().__init__()
        write_swift_conf()
        free = socket.socket()
        free.bind(('127.0.0.1', 0))
        self.server_port = free.getsockname()[1]
        free.close()
        conf = os.path.join(folder, 'object-server.conf')
        with open(conf, 'w') as out:
            out.write('[DEFAULT]\nuser = root\nbind_ip = 127.0.0.1\nbind_port = %d\nworkers = 0\n'
                      'devices = %s\nmount_check = false\nlog_udp_host = 127.0.0.1\nlog_udp_port = %d\n'
                      '[pipeline:main]\npipeline = object-server\n'
                      '[app:object-server]\nuse = egg:swift#object\n'
                      'replication_concurrency_per_device = 0\nlog_requests = false\n' % (
                          self.server_port, devices, self.port))
        self.process = subprocess.Popen(['swift-object-server', conf], stdout=subprocess.PIPE)
        complaint = self.process.stdout.read()  # to its end: the server has started, or has not
        if complaint or self.process.poll() is not None:
            raise RuntimeError('the server did not start: %s' % complaint.decode())

    def stop(self):
        """Lets it finish what is under way, and reads its log."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGHUP)
        self.process.wait(PATIENCE)
        self.read()

    def get_lines_for_level(self, level):
        self.stop()
        return super().get_lines_for_level(level)


set_up, tear_down = test_ssync.TestBaseSsync.setUp, test_ssync.TestBaseSsync.tearDown


def own_set_up(self):
    set_up(self)
    self.rx_server.kill()
    self.rx_logger = Receiver(self.tmpdir, self.rx_testdir)
    self.rx_port = self.rx_node['replication_port'] = self.rx_logger.server_port


def own_tear_down(self):
    try:
        self.rx_logger.stop()
    finally:
        if self.rx_logger.process.poll() is None:
            self.rx_logger.process.kill()
        self.rx_logger.socket.close()
        tear_down(self)


test_ssync.TestBaseSsync.setUp, test_ssync.TestBaseSsync.tearDown = own_set_up, own_tear_down


if __name__ == '__main__':
    print_verdicts(test_ssync)
