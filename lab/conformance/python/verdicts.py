"""Runs the tests of a module, and says of each what is wrong with it."""
import json
import os
import sys
import unittest


class Result(unittest.TextTestResult):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.verdicts = {}

    def stopTest(self, test):
        super().stopTest(test)
        name = self.named(test.id())
        self.verdicts[name] = ''.join(
            text for kind in (self.failures, self.errors, self.skipped) for bad, text in kind if bad is test)


def print_verdicts(tests, named=lambda name: name.rsplit('.', 1)[1]):
    """The last line of output is a JSON object: of each test's name, what is wrong with it, or nothing. Tests are a module or a suite."""
    if not isinstance(tests, unittest.TestSuite):
        tests = unittest.defaultTestLoader.loadTestsFromModule(tests)
    Result.named = staticmethod(named)
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2, resultclass=Result).run(tests)
    print(json.dumps(result.verdicts), flush=True)
    os._exit(0)
