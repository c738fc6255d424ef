"""Tests of other libraries beside this one."""
