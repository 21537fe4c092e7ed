"""The commands for this machine, a module each: options, one call, output."""
