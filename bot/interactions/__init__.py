"""What interactions pass: the rate limit, the requester, the action, the intake, the answer."""
