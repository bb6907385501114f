"""Attacks runs and judges what is left: kills, full disks, damaged files, two processes."""
