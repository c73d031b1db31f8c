"""The release of this package, without its metadata: images contain only its files."""

RELEASE = "0.1.0"
