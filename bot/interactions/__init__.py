"""What every interaction passes: the gate, the requester, the action, the intake, the answer."""
