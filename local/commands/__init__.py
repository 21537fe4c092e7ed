"""The commands for this machine, a module each: options, one call, output. Only a dispatcher imports them."""
