"""One module a kind of system; each keeps to the interface in `legacy.connector`."""
