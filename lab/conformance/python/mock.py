"""Stands in for the package mock, which Python's library has had since 3.3."""
from unittest.mock import *  # noqa
