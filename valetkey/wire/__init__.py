"""The messages of the contract, and what builds and reads them."""

RELEASE = "0.1.0"
"""The release of this package, without its metadata: images contain only its files."""

ISSUE_TASK = "valetkey.issue"
INTERACTIVE_QUEUE = "valetkey"
BULK_QUEUE = "valetkey.bulk"
