"""What a program logs, read where it sends it."""
import re
import socket

LEVELS = {2: 'critical', 3: 'error', 4: 'warning', 5: 'notice', 6: 'info', 7: 'debug'}


class Log:
    """Syslog datagrams on a UDP socket of loopback, asked as Swift's tests ask a logger."""

    def __init__(self):
        self.lines = {level: [] for level in LEVELS.values()}
        self.order = []  # of all lines: level and text
        self.logger = self  # the probe tests ask daemon.logger.logger
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
            self.order.append((level, text))
            print('%s: %s' % (level, text))

    def get_lines_for_level(self, level):
        return self.lines[level]

    def all_log_lines(self):
        return {level: lines for level, lines in self.lines.items() if lines}
