"""Input from outside, changed at random under limits of time and memory."""
