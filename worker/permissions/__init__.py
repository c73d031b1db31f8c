"""Prints the policies that the service needs in AWS, as documents and commands or as Terraform."""
