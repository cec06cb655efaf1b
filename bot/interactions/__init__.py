"""What every interaction passes: the gate, who asks, what may be done, and the answer."""
