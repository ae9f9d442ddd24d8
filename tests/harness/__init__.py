"""The servers that the tests talk to and the faults put between them.

Each server is an operating-system process of its own, so that a test can kill it, freeze it or measure it,
and none of its CPU time is charged to the code under test.
"""
