"""Faults: a proxy that cuts and delays, a standby that is promoted, replaced programs."""
