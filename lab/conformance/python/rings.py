"""Runs the swift-ring-builder lines of the script given, in /etc/swift, all in one
process: forty starts of Python would take longer than all that the builder does."""
import os
import shlex
import sys

from swift.cli import ringbuilder

os.chdir('/etc/swift')
with open(sys.argv[1]) as script:
    commands = [shlex.split(line) for line in script if line.startswith('swift-ring-builder ')]
if not commands:
    sys.exit('%s has no swift-ring-builder lines' % sys.argv[1])
for command in commands:
    try:
        ringbuilder.main(command)
    except SystemExit as end:
        # 1 is a warning: the ring was written all the same.
        if end.code not in (None, 0, 1):
            sys.exit('%s ended with status %s' % (' '.join(command), end.code))
