"""The one command: finds or installs the servers, runs private instances, starts and supervises the four services."""
