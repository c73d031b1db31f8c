"""The pure decisions of issuing: signing, policy rules, kinds of grants, quotas, authentication."""
