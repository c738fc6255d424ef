"""The life of a key and the decision on one."""
