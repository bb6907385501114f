"""Devices and processes: the mesh, sharding rules, launchers."""
