"""Servers, storages and applications that tests share."""
