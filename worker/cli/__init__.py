"""Options, output and opened services that all commands share."""
