"""Issues an earlier grant afresh, under the policy and for the quotas of today."""
