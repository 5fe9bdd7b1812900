"""Runs Swift's tests of its relinker with the program on PATH in place of its main function. Ends as verdicts.py says.

The tests look at the disks, at the exit status, and at what was logged: the program's lines are given to their logger.
"""
import configparser
import subprocess
import sys
import tempfile

from swift.cli import relinker
from test.unit.cli import test_relinker

from log import Log
from swiftconf import write_swift_conf
from verdicts import print_verdicts

# How long the program may take for one object.
PATIENCE = 60


def main(args):
    write_swift_conf()
    log = Log()
    conf = configparser.RawConfigParser()
    conf.add_section('object-relinker')
    words = list(args)
    # The conf is the second word that belongs to no option.
    if len(words) > 1 and not words[1].startswith('-'):
        conf.read(words.pop(1))
    else:
        conf.set('object-relinker', 'recon_cache_path', relinker.DEFAULT_RECON_CACHE_PATH)
    conf.set('object-relinker', 'log_udp_host', '127.0.0.1')
    conf.set('object-relinker', 'log_udp_port', str(log.port))
    conf.set('object-relinker', 'log_level', 'DEBUG')
    with tempfile.NamedTemporaryFile('w', suffix='.conf') as out:
        conf.write(out)
        out.flush()
        done = subprocess.run(['swift-object-relinker', words[0], out.name] + words[1:],
                              timeout=PATIENCE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log.read()
    log.socket.close()
    sys.stderr.write(done.stderr)
    if done.returncode == 2 and done.stderr.startswith('usage:'):
        raise SystemExit(2)
    logger = relinker.logging.getLogger()
    for level, text in log.order:
        getattr(logger, 'info' if level == 'notice' else level)(text)
    return done.returncode


relinker.main = main

if __name__ == '__main__':
    print_verdicts(test_relinker)
