"""What commands share: options, output, and the services that they open."""
