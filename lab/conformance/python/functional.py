"""Runs Swift's functional tests of objects against servers that it starts, those on PATH. Ends as verdicts.py says.

The policy is that of the environment variable SWIFT_TEST_POLICY.
"""
import os
import subprocess
import sys
import time
import unittest
import urllib.request

from swift.common.manager import Manager

from verdicts import print_verdicts

MODULES = ['test_object', 'test_dlo', 'test_slo', 'test_symlink', 'test_tempurl', 'test_versioned_writes', 'tests']

# How long servers may take to start.
PATIENCE = 120

if __name__ == '__main__':
    subprocess.run(['resetswift'], check=True)
    Manager(['main']).start()
    end = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen('http://127.0.0.1:8080/healthcheck').close()
            break
        except OSError:
            if time.monotonic() > end:
                sys.exit('the proxy does not answer')
            time.sleep(0.1)
    names = ['test.functional.' + module for module in MODULES]
    print_verdicts(unittest.defaultTestLoader.loadTestsFromNames(names), lambda name: name.split('.', 2)[2])
