"""The life of a job, from acceptance to delivery. It knows no Discord."""
