"""What goes wrong: proxies that cut and hold back, a standby that is promoted, programs that are not there."""
