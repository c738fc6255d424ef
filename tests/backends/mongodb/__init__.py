"""Tests of the MongoDB backend beyond the contract suite."""
