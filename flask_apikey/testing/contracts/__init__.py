"""The contract suite for backends."""
